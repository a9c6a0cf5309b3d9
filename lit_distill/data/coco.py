"""Photographs with annotated objects in COCO's layout, for segmentation and detection."""

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from lit_distill.data.base import at_least
from lit_distill.data.counter_rng import Draw, permutation
from lit_distill.data.dense import DenseBatch, DenseData, DenseImages
from lit_distill.errors import InputError


class Object(NamedTuple):
    """What an annotation says.

    Attributes:
        label: Its class, from 1 on; -1 for a crowd.
        box: Left, top, width and height in pixels of the file's image.
        area: Of the object in pixels.
        outline: Polygons as COCO writes them, or for crowds the lengths of runs.
    """

    label: int
    box: list[float]
    area: float
    outline: Any


class CocoImages(DenseImages):
    """Image files with the objects that are annotated in them.

    Args:
        folder: Where the files are.
        files: Their names.
        objects: What is annotated in each.
        size: Height and width to which images are resized.
        kind: Whether the class of every pixel is wanted, or the box of every object.
    """

    def __init__(
        self, folder: Path, files: list[str], objects: list[list[Object]], size: int, kind: Literal["masks", "boxes"]
    ) -> None:
        self.folder = folder
        self.files = files
        self.objects = objects
        self.size = size
        self.kind = kind

    def __len__(self) -> int:
        return len(self.files)

    def take(self, positions: list[int]) -> DenseBatch:
        """The images at these positions, and what is in them.

        Args:
            positions: Which images.

        Raises:
            InputError: When a file cannot be read as an image.
        """
        images, targets = zip(*(self.one(position) for position in positions), strict=True)
        return DenseBatch(torch.stack(images), torch.stack(targets) if self.kind == "masks" else list(targets))

    def one(self, position: int) -> tuple[Tensor, Any]:
        """One image, uint8 ``(3, size, size)``, and what is in it."""
        path = self.folder / self.files[position]
        try:
            with Image.open(path) as file:
                image = file.convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise InputError(f"root: {path} cannot be read as an image: {error}") from error
        square = (self.size, self.size)
        x = torch.from_numpy(np.array(image.resize(square, Image.Resampling.BILINEAR))).movedim(-1, 0)
        objects = self.objects[position]
        if self.kind == "masks":
            classes = torch.from_numpy(np.array(mask_of(objects, image.size).resize(square, Image.Resampling.NEAREST)))
            return x.contiguous(), classes.long()
        scale = torch.tensor([self.size / image.width, self.size / image.height] * 2)
        corners = [[x, y, x + w, y + h] for (x, y, w, h) in (o.box for o in objects)]
        boxes = (torch.tensor(corners).view(-1, 4) * scale).clamp(0, self.size)
        keep = torch.tensor([o.label > 0 for o in objects], dtype=torch.bool) & (boxes[:, 2:] > boxes[:, :2]).all(1)
        labels = torch.tensor([o.label for o in objects], dtype=torch.long)
        return x.contiguous(), {"boxes": boxes[keep], "labels": labels[keep]}


def mask_of(objects: list[Object], size: tuple[int, int]) -> Image.Image:
    """The class of every pixel, 0 for the background and -1 within crowds; smaller objects lie over larger ones.

    Args:
        objects: What is annotated.
        size: Width and height of the image.
    """
    mask = Image.new("I", size, 0)
    draw = ImageDraw.Draw(mask)
    for found in sorted(objects, key=lambda found: -found.area):
        if isinstance(found.outline, dict):
            mask.paste(found.label, mask=_runs(found.outline["counts"], size))
            continue
        for polygon in found.outline:
            if len(polygon) >= 6:
                draw.polygon(polygon, fill=found.label)
    return mask


def _runs(counts: list[int], size: tuple[int, int]) -> Image.Image:
    """The region that runs of outside and inside in turn describe, column by column."""
    inside = np.arange(len(counts)) % 2 == 1
    region = np.repeat(inside, counts).reshape(size[0], size[1]).T
    return Image.fromarray((255 * region).astype(np.uint8))


class Coco(DenseData):
    """Photographs in COCO's layout: folders of images, and ``annotations/instances_<folder>.json`` for each.

    Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014, https://arxiv.org/abs/1405.0312. The official
    test set has no public annotations: the folder ``val`` is the test set, and validation is held out from ``train``.
    Categories are numbered from 1 on in the order of their ids. Images are resized to squares.

    In the preset ``feature/pkd_shapes_detection``, for instance, the data become ``{class_path: CocoBoxes, init_args:
    {root: coco}}``, and a network ``{class_path: torchvision.models.detection.fcos_resnet50_fpn, init_args: {weights:
    null, weights_backbone: null, num_classes: 81, min_size: 256, max_size: 256}}``.

    Args:
        root: The folder that ``annotations`` is in.
        train: Name of the folder with the images to train on.
        val: Name of the folder with the images to test on.
        image_size: Height and width of the images that networks see.
        val_fraction: Share of the training images that is held out for validation, in (0, 0.5].
        split_seed: Draws the images held out.

    Raises:
        InputError: When an argument is outside its range, or a file of annotations is missing or none.
    """

    kind: Literal["masks", "boxes"]

    def __init__(
        self,
        root: str,
        train: str = "train2017",
        val: str = "val2017",
        image_size: int = 256,
        val_fraction: float = 0.02,
        split_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 0 < val_fraction <= 0.5:
            raise InputError(f"val_fraction: {val_fraction} is not in (0, 0.5]")
        self.root = Path(root)
        self.folders = {"train": train, "val": train, "test": val}
        self.input_shape = (3, at_least(16, image_size, "image_size"), image_size)
        self.val_fraction = val_fraction
        self.split_seed = split_seed
        self.classes = sorted({(int(c["id"]), str(c["name"])) for c in self.annotations(val)["categories"]})
        self.num_classes = 1 + len(self.classes)

    def annotations(self, folder: str) -> dict[str, Any]:
        """What ``annotations/instances_<folder>.json`` says.

        Args:
            folder: Name of the folder with the images.

        Raises:
            InputError: When the file is missing, or does not hold instances in COCO's format.
        """
        file = self.root / "annotations" / f"instances_{folder}.json"
        try:
            said = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"root: {file} cannot be read: {error}") from error
        if not isinstance(said, dict) or not {"images", "annotations", "categories"} <= said.keys():
            raise InputError(f"root: {file} holds no instances; accepted are images, annotations and categories")
        return said

    def read(self, part: Literal["train", "val", "test"]) -> CocoImages:
        """One of the three sets.

        Raises:
            InputError: When an annotation is of no known category.
        """
        said = self.annotations(self.folders[part])
        labels = {number: label for label, (number, _) in enumerate(self.classes, start=1)}
        objects: dict[int, list[Object]] = {image["id"]: [] for image in said["images"]}
        for found in said["annotations"]:
            if found["category_id"] not in labels:
                raise InputError(f"root: category {found['category_id']} of annotation {found.get('id')} is not known")
            label = -1 if found.get("iscrowd") else labels[found["category_id"]]
            outline = found.get("segmentation") or []
            objects[found["image_id"]].append(Object(label, found["bbox"], float(found.get("area", 0)), outline))
        images = said["images"]
        if part != "test":
            order = permutation(self.split_seed, 0, Draw.SPLIT, len(images)).tolist()
            held_out = max(1, round(self.val_fraction * len(images)))
            images = [images[i] for i in sorted(order[:held_out] if part == "val" else order[held_out:])]
        names = [image["file_name"] for image in images]
        every = [objects[image["id"]] for image in images]
        return CocoImages(self.root / self.folders[part], names, every, self.input_shape[1], self.kind)


class CocoMasks(Coco):
    """Photographs in COCO's layout with the class of every pixel, for segmentation.

    Batches are normalised images, float ``(B, 3, H, W)``, and classes, int64 ``(B, H, W)``: 0 is the background,
    categories are numbered from 1 on, and -1 marks crowds, which count for nothing. Where objects overlap, the smaller
    one is seen.
    """

    kind = "masks"
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)


class CocoBoxes(Coco):
    """Photographs in COCO's layout with a box around each object, for detection.

    Batches are images in [0, 1], float ``(B, 3, H, W)``, and a dict for each image with ``boxes``, float32 ``(n, 4)``:
    left, top, right and bottom edge in pixels of the resized image, and ``labels``, int64 ``(n,)``, from 1 on. Crowds
    are left out: what a detector finds in them counts as wrong, unlike in COCO's own evaluation.
    """

    kind = "boxes"
    mean = (0.0, 0.0, 0.0)
    std = (1.0, 1.0, 1.0)
