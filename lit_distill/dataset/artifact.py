"""Distilled datasets on disk: images and labels, and a card that says what they are and how to use them."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import torch
from PIL.Image import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.transforms.functional import pil_to_tensor
from torchvision.utils import make_grid, save_image

import lit_distill
from lit_distill.dataset.augment import SiameseAugmentation
from lit_distill.dataset.soft_views import StoredViews, stored_views
from lit_distill.dataset.step import Labelled
from lit_distill.dataset.whitening import Whitening
from lit_distill.errors import InputError
from lit_distill.student_file import write_whole

# Grows when a reader of older artifacts would misunderstand a newer one.
FORMAT = 1

KIND = "distilled dataset"
CARD, TENSORS, GRID, WHITENING = "card.json", "distilled.safetensors", "images.png", "whitening.safetensors"

#: What labels are: ``classes``; ``logits``, whose softmax are probabilities; or ``values`` to learn by regression.
LabelKind = Literal["classes", "logits", "values"]


def save_distilled(
    folder: str | Path,
    images: Labelled,
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    soft: Literal["logits", "values"] = "logits",
    augment: SiameseAugmentation | None = None,
    step_size: float | Sequence[float] | None = None,
    whitening: Whitening | None = None,
    recipe: str | None = None,
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Write a distilled dataset: ``distilled.safetensors``, ``images.png`` and ``card.json``.

    Every file appears whole or not at all, the card last; it knows the others by their checksums, so that files of
    different sets are never taken for one. In a distributed run one process calls this.

    Args:
        folder: Where the files go.
        images: Images of all classes, normalised (and white where there is a whitening), as networks see them.
        num_classes: The number of classes.
        mean: Of each channel, with pixels in [0, 1], as it was subtracted.
        std: Of each channel, as it was divided by.
        soft: What labels with fractions are.
        augment: What the images were learned under, and want to be trained under.
        step_size: The learning rate that was learned with the images, one or one a step.
        whitening: What the images were made white by.
        recipe: Name of the evaluation recipe that suits the set best.
        about: What else the card shall say, in plain values: method, seed, data, config.

    Returns:
        The folder.

    Raises:
        InputError: When an image or a step size is not finite, or the numbers of channels differ.
    """
    x, targets = images.images.detach().flatten(0, 1).cpu().float(), images.targets.detach().flatten(0, 1).cpu()
    steps = [step_size] if isinstance(step_size, int | float) else list(step_size or [])
    if not all(map(math.isfinite, steps)):
        raise InputError(f"step_size must be finite, not {step_size}; lower the learning rate of the step size")
    if not x.isfinite().all() or not targets.isfinite().all():
        raise InputError("images must be finite; lower their learning rate")
    if not len(mean) == len(std) == x.shape[1]:
        raise InputError(f"mean and std must be of {x.shape[1]} channels, not {len(mean)} and {len(std)}")
    kind = soft if targets.is_floating_point() else "classes"
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"images": x.contiguous(), "targets": targets.contiguous()}
    write_whole(folder / TENSORS, lambda partial: save_file(tensors, partial))
    files = {TENSORS: checksum(folder / TENSORS)}
    if whitening is not None:
        whitening.save(folder / WHITENING)
        files[WHITENING] = checksum(folder / WHITENING)
    pixels = _pixels(x, mean, std, whitening)
    grid = picture(pixels.unflatten(0, images.images.shape[:2]))
    write_whole(folder / GRID, lambda partial: save_image(grid, partial, format="png"))
    card = {
        "kind": KIND,
        "format": FORMAT,
        "lit_distill": lit_distill.__version__,
        "torch": torch.__version__,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "num_classes": num_classes,
        "images_per_class": images.images.shape[1],
        "input_shape": list(x.shape[1:]),
        "labels": kind,
        "normalisation": {"mean": list(mean), "std": list(std)},
        "range": {"least": round(pixels.min().item(), 6), "largest": round(pixels.max().item(), 6)},
        "whitening": None if whitening is None else WHITENING,
        "augmentation": None if augment is None else settings(augment),
        "step_size": step_size if step_size is None or isinstance(step_size, int | float) else steps,
        "recipe": recipe,
        "files": files,
        "about": dict(about or {}),
    }
    text = json.dumps(card, indent=2, ensure_ascii=False, default=str) + "\n"
    write_whole(folder / CARD, lambda partial: partial.write_text(text, encoding="utf-8"))
    return folder


class DistilledDataset(Dataset[tuple[Tensor, Tensor]]):
    """A distilled dataset as any other: items are ``(image, target)``, the image normalised, ``(C, H, W)``.

    A network trained on it understands real images only in the same normalisation, which :attr:`transform` gives them::

        train = DistilledDataset.load("runs/dm_fashion_mnist_ipc1/version_0/distilled")
        test = torchvision.datasets.FashionMNIST("data", train=False, transform=train.transform)

    Attributes:
        images: ``(N, C, H, W)``, normalised, class by class.
        targets: Classes, int64 ``(N,)``; or probabilities ``(N, num_classes)``; or values to regress, likewise.
        transform: Gives real images the form of these; see :class:`MatchingTransform`.
        augment: What to train under, or ``None``.
        card: All that is known of the set.
        stored: What a teacher said about crops and mixtures of the images, if ``lit-distill relabel`` has asked one.

    Args:
        images: ``(N, C, H, W)``.
        targets: As above, but logits in the place of probabilities.
        card: What :func:`save_distilled` says of them.
        whitening: What they were made white by.
    """

    def __init__(self, images: Tensor, targets: Tensor, card: Mapping[str, Any], whitening: Whitening | None) -> None:
        self.images = images
        self.targets = targets.softmax(-1) if card["labels"] == "logits" else targets
        self.card = dict(card)
        self.transform = MatchingTransform(**card["normalisation"], whitening=whitening)
        self.augment = None if card["augmentation"] is None else SiameseAugmentation(**card["augmentation"])
        self.stored: StoredViews | None = None

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return int(self.card["num_classes"])

    @property
    def labelled(self) -> Labelled:
        """Images ``(K, n, C, H, W)`` and targets ``(K, n)`` or ``(K, n, num_classes)``, by class."""
        shape = (-1, self.card["images_per_class"])
        return Labelled(self.images.unflatten(0, shape), self.targets.unflatten(0, shape))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.targets[index]

    @classmethod
    def load(cls, folder: str | Path) -> "DistilledDataset":
        """Read what :func:`save_distilled` wrote.

        Args:
            folder: Where the files are.

        Raises:
            InputError: When a file is missing, damaged, or of another set.
        """
        folder = Path(folder)
        card = load_card(folder)
        try:
            shape, classes = [*card["input_shape"]], int(card["num_classes"])
            count, kind, files, white = card["images_per_class"], card["labels"], {**card["files"]}, card["whitening"]
            MatchingTransform(**card["normalisation"])
            _ = card["augmentation"]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"folder: {folder / CARD} lacks or misspells {error}") from None
        for name, expected in files.items():
            if not (folder / name).is_file():
                raise InputError(f"folder: {folder / name} is missing; the card needs it")
            if checksum(folder / name) != expected:
                raise InputError(
                    f"folder: {folder / name} is damaged or of another set (its checksum is not the card's)"
                )
        try:
            tensors = load_file(folder / TENSORS)
            images, targets = tensors["images"], tensors["targets"]
        except (SafetensorError, OSError, KeyError) as error:
            raise InputError(f"folder: {folder / TENSORS} holds no images and targets") from error
        labels = [] if kind == "classes" else [classes]
        if list(images.shape[1:]) != shape or [len(images), *labels] != list(targets.shape) or len(images) % count:
            raise InputError(f"folder: the images in {folder / TENSORS} are not as many or as large as its card says")
        made = cls(images, targets, card, None if white is None else Whitening.load(folder / white))
        made.stored = stored_views(folder, files[TENSORS])
        return made


class MatchingTransform:
    """Gives real images the normalisation of a distilled set, without which networks trained on it see nothing.

    Takes what image folders and torchvision's datasets give: a PIL image, or a tensor ``(..., C, H, W)`` of uint8 or of
    numbers in [0, 1].

    Args:
        mean: Of each channel.
        std: Of each channel.
        whitening: What comes after the normalisation.

    Raises:
        InputError: When images have another number of channels, or are normalised already.

    Example:
        >>> transform = MatchingTransform([0.5], [0.25])
        >>> transform(torch.full((1, 2, 2), 255, dtype=torch.uint8)).unique()
        tensor([2.])
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], whitening: Whitening | None = None) -> None:
        self.mean, self.std = (torch.tensor(list(map(float, values)))[:, None, None] for values in (mean, std))
        self.whitening = whitening

    def __call__(self, image: Tensor | Image) -> Tensor:
        """One image or many, float32."""
        x = pil_to_tensor(image) if isinstance(image, Image) else image
        if x.ndim < 3 or x.shape[-3] != len(self.mean):
            raise InputError(f"image must have shape (..., {len(self.mean)}, H, W), not {tuple(x.shape)}")
        if x.dtype == torch.uint8:
            x = x.float() / 255
        elif not x.is_floating_point() or x.min() < 0 or x.max() > 1:
            raise InputError(
                f"image has {x.dtype} from {x.min().item():.3g} to {x.max().item():.3g}; accepted are uint8 and "
                "numbers in [0, 1], not normalised"
            )
        x = (x - self.mean.to(x)) / self.std.to(x)
        return x if self.whitening is None else self.whitening(x)


def load_card(folder: Path) -> dict[str, Any]:
    """The card of an artifact.

    Args:
        folder: The artifact.

    Raises:
        InputError: When there is none, or it is not one that this version can read.
    """
    file = folder / CARD
    try:
        card = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"folder: {folder} holds no distilled dataset ({CARD} is missing)") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"folder: {file} cannot be read ({error})") from None
    if not isinstance(card, dict) or card.get("kind") != KIND or not isinstance(card.get("format"), int):
        raise InputError(f"folder: {file} is no card of a distilled dataset")
    if card["format"] > FORMAT:
        raise InputError(
            f"folder: {folder} has format {card['format']}; accepted by lit_distill {lit_distill.__version__} are "
            f"formats up to {FORMAT}, so upgrade it"
        )
    return card


def settings(augment: SiameseAugmentation) -> dict[str, Any]:
    """The arguments that make an augmentation again.

    Args:
        augment: The augmentation.
    """
    return {name: value for name, value in vars(augment).items() if not name.startswith("_")}


def checksum(file: Path) -> str:
    """SHA-256 of a file.

    Args:
        file: The file.
    """
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while part := opened.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def picture(pixels: Tensor, rows: int = 100, columns: int = 10) -> Tensor:
    """A picture of images, ``(3, height, width)``: a row a class, or ten classes a row where each has one image.

    Args:
        pixels: ``(K, n, C, H, W)`` in [0, 1]; numbers outside are cut off.
        rows: Show at most so many classes.
        columns: Show at most so many images of each.
    """
    shown = pixels[:rows, :columns]
    x = shown.flatten(0, 1).float().clamp(0, 1)
    x = x if x.shape[1] in (1, 3) else x.mean(1, keepdim=True)
    x = nn.functional.interpolate(x, scale_factor=max(1, 64 // max(x.shape[-2:])))  # small ones would be stamps
    return make_grid(x, nrow=columns if shown.shape[1] == 1 else shown.shape[1], padding=2, pad_value=1.0)


def _pixels(x: Tensor, mean: Sequence[float], std: Sequence[float], whitening: Whitening | None) -> Tensor:
    """Images in the range of pixels, mostly [0, 1]."""
    x = x if whitening is None else whitening.undone(x)
    return x * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
