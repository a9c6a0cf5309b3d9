"""Images in folders, one folder a class."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import Compose, InterpolationMode, RandAugment

from lit_distill.data.base import ImageData, at_least
from lit_distill.data.counter_rng import Draw, key
from lit_distill.data.forked_rng import forked_rng
from lit_distill.data.parts import Images
from lit_distill.errors import InputError

Transform = Callable[[Image.Image], Tensor]


class FileImages(Images):
    """Images in files, decoded and transformed one by one.

    Args:
        root: Folder that the paths are relative to.
        paths: Path of every image.
        targets: Their classes.
        train_transform: Makes a tensor ``(C, H, W)`` of an RGB image to train on. What it draws from the global
            generators depends on the seed, the epoch and the sample alone.
        eval_transform: Likewise of an image to evaluate on.
        seed: Of what the transforms draw.
        strong_transform: Likewise makes a strong view of an image to train on. Default: there are none.
    """

    def __init__(
        self,
        root: Path,
        paths: list[str],
        targets: list[int],
        train_transform: Transform,
        eval_transform: Transform,
        seed: int,
        strong_transform: Transform | None = None,
    ) -> None:
        self.root = root
        # one array of bytes: a million strings would be copied into every worker, object by object
        self.paths = np.array([os.fsencode(path) for path in paths])
        self.targets = torch.tensor(targets)
        self.transforms = {True: {Draw.TRANSFORM: train_transform}, False: {Draw.TRANSFORM: eval_transform}}
        if strong_transform is not None:
            self.transforms[True][Draw.STRONG_TRANSFORM] = strong_transform
        self.seed = seed

    def take(self, positions: Tensor, epoch: int, training: bool) -> Tensor:
        """The images at these positions, float32 ``(B, C, H, W)``; those to train on may be followed by strong views.

        Raises:
            InputError: When a file cannot be read as an image.
        """
        images = [self.views(position, epoch, training) for position in positions.tolist()]
        return torch.stack([x for view in zip(*images, strict=True) for x in view])

    def views(self, position: int, epoch: int, training: bool) -> list[Tensor]:
        """One image, ``(C, H, W)``, and the strong view of it if there is to be one."""
        path = self.root / os.fsdecode(self.paths[position])
        try:
            with Image.open(path) as file:
                image = file.convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise InputError(f"root: {path} cannot be read as an image: {error}") from error
        views = []
        for draw, transform in self.transforms[training].items():
            with forked_rng(key(self.seed, epoch, position, draw)):
                views.append(transform(image))
        return views


class ImageFolder(ImageData):
    """Image files in folders: ``train/<class>/...``, ``val/<class>/...`` and, if there is one, ``test/<class>/...``.

    Without ``test``, ``val`` is the test set and validation is held out from ``train``, so that no model is
    selected by what it is tested on; with ``test``, ``val`` validates and ``val_fraction`` is not used. ImageNet is
    the first kind. Images are decoded as they are needed. timm's transforms crop training images at random, resize
    and mirror them; all others are resized and cropped in the centre. Strong views are cropped and mirrored by
    themselves, go through torchvision's ``RandAugment(2, 10)`` and have a rectangle filled with the mean.

    Args:
        root: Folder of the data set.
        image_size: Height and width of the images that networks see.
        crop_pct: Share of the resized image's side that the crop in the centre keeps, in (0, 1].
        interpolation: How images are resized.
        min_scale: Smallest share of a training image's area that the random crop keeps, in (0, 1].
        color_jitter: How far brightness, contrast and saturation of training images vary, as a share.
        auto_augment: A policy of timm for training images, such as ``rand-m9-mstd0.5-inc1``; it takes the place
            of ``color_jitter``. Default: none.
        random_erasing: How often a rectangle of a training image is replaced by noise, in [0, 1].
        mean: Mean of each channel, with pixels in [0, 1].
        std: Standard deviation of each channel, likewise.
        augment: Whether to augment training images; they are prepared like all others if not.

    Raises:
        InputError: When the folder has no ``train`` with folders of classes, or timm refuses an argument.
    """

    def __init__(
        self,
        root: str,
        image_size: int = 224,
        crop_pct: float = 0.875,
        interpolation: Literal["bilinear", "bicubic"] = "bicubic",
        min_scale: float = 0.08,
        color_jitter: float = 0.0,
        auto_augment: str | None = None,
        random_erasing: float = 0.0,
        mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
        std: tuple[float, float, float] = (0.229, 0.224, 0.225),
        augment: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(augment=augment, **kwargs)
        at_least(1, image_size, "image_size")
        for name, share in (("crop_pct", crop_pct), ("min_scale", min_scale)):
            if not 0 < share <= 1:
                raise InputError(f"{name}: {share} is not in (0, 1]")
        if not 0 <= random_erasing <= 1:
            raise InputError(f"random_erasing: {random_erasing} is not in [0, 1]")
        self.root = Path(root)
        self.classes = subfolders(self.root / "train")
        self.num_classes = len(self.classes)
        self.input_shape = (3, image_size, image_size)
        self.mean, self.std = mean, std
        transform = partial(create_transform, image_size, interpolation=interpolation, mean=mean, std=std)
        self.eval_transform = transform(crop_pct=crop_pct)
        self.train_transform = self.eval_transform
        if augment:
            try:
                self.train_transform = transform(
                    is_training=True,
                    scale=(min_scale, 1.0),
                    color_jitter=color_jitter,
                    auto_augment=auto_augment,
                    re_prob=random_erasing,
                    re_mode="pixel",
                )
            except (AssertionError, KeyError, ValueError) as error:
                raise InputError(f"auto_augment: {auto_augment} is no policy of timm: {error}") from error
        self.strong_transform = None
        if self.strong_view:
            crop, _, finish = transform(
                is_training=True, scale=(min_scale, 1.0), re_prob=1.0, re_mode="const", separate=True
            )
            strong = RandAugment(num_ops=2, magnitude=10, interpolation=InterpolationMode.BILINEAR)
            self.strong_transform = Compose([crop, strong, finish])

    def read_train(self) -> FileImages:
        """The full training set."""
        return self.read("train")

    def read_val(self) -> FileImages | None:
        """The folder ``val`` if there is a ``test`` besides it."""
        return self.read("val") if (self.root / "test").is_dir() else None

    def read_test(self) -> FileImages:
        """The folder ``test``, or else ``val``."""
        return self.read("test" if (self.root / "test").is_dir() else "val")

    def read(self, part: str) -> FileImages:
        """All images below a folder.

        Args:
            part: Name of the folder.

        Raises:
            InputError: When it has a class that ``train`` has not, or a class of it has no images.
        """
        labels = {name: label for label, name in enumerate(self.classes)}
        paths, targets = [], []
        for name in subfolders(self.root / part):
            folder = self.root / part / name
            if name not in labels:
                raise InputError(f"root: {folder} is no class of {self.root / 'train'}")
            found = sorted(image_files(folder))
            if not found:
                raise InputError(f"root: {folder} has no images; a class must have at least one")
            paths += [os.path.relpath(path, self.root) for path in found]
            targets += [labels[name]] * len(found)
        return self.images(paths, targets)

    def images(self, paths: list[str], targets: list[int]) -> FileImages:
        """The set of these files.

        Args:
            paths: Path of every image, relative to ``root``.
            targets: Their classes.
        """
        return FileImages(
            self.root, paths, targets, self.train_transform, self.eval_transform, self.view_seed, self.strong_transform
        )


def subfolders(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted.

    Raises:
        InputError: When there are none.
    """
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    except OSError as error:
        raise InputError(f"root: {folder} cannot be read: {error.strerror}") from error
    if not names:
        raise InputError(f"root: {folder} has no folders, one for each class")
    return names


def image_files(folder: Path) -> Iterator[str]:
    """The paths of all images in and below a folder."""
    for parent, _, names in os.walk(folder, followlinks=True):
        yield from (os.path.join(parent, name) for name in names if name.lower().endswith(IMG_EXTENSIONS))
