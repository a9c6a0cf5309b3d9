"""What a teacher said about crops and mixtures of a distilled set, on disk (FKD)."""

from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lit_distill.dataset.crops import Box, cropped, random_box
from lit_distill.dataset.step import Purpose, generator
from lit_distill.dataset.targets import soft_divergence
from lit_distill.errors import InputError
from lit_distill.store.soft_labels import SoftLabels, complete
from lit_distill.store.topk import expand

FOLDER = "labels"


class Plan(NamedTuple):
    """What happens to each image of a set in one view.

    Attributes:
        boxes: Which part of it is shown.
        mirrored: Whether it is mirrored, bool ``(N,)``.
        partners: Which image is pasted into it, int64 ``(N,)``.
        pasted: Which part of that image, in the same place; of no height where nothing is.
    """

    boxes: list[Box]
    mirrored: Tensor
    partners: Tensor
    pasted: list[Box]


@dataclass(frozen=True)
class Views:
    """Crops and mixtures of the images of a set, each a function of the seed, its number and the image alone.

    So nothing about them needs to be stored, and batches of any size in any order show the same images. With CutMix
    every image gets a box of its own, while the authors draw one for a batch.

    Attributes:
        seed: Of all that is random.
        smallest_crop: Least share of an image that a crop shows; 1 shows whole images.
        flip: Whether half of the images are mirrored.
        cutmix: How often a part of another image is pasted, in [0, 1].
    """

    seed: int = 0
    smallest_crop: float = 0.08
    flip: bool = True
    cutmix: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.smallest_crop <= 1:
            raise InputError(f"smallest_crop must be in (0, 1], not {self.smallest_crop}")
        if not 0 <= self.cutmix <= 1:
            raise InputError(f"cutmix must be in [0, 1], not {self.cutmix}")

    def __call__(self, images: Tensor, rows: Tensor, view: int) -> Tensor:
        """Some images of a set in one view, ``(B, C, H, W)``.

        Args:
            images: The set, ``(N, C, H, W)``.
            rows: Which images, int64 ``(B,)``.
            view: The number of the view.
        """
        plan = planned(self, len(images), (images.shape[-2], images.shape[-1]), view)
        rows = rows.cpu()
        own, other = _cut(images, rows, plan), _cut(images, plan.partners[rows], plan)
        return pasted(own, other, [plan.pasted[row] for row in rows.tolist()])


@lru_cache(maxsize=2)
def planned(views: Views, count: int, size: tuple[int, int], view: int) -> Plan:
    """What happens to each of ``count`` images in a view.

    Args:
        views: How views are made.
        count: How many images there are.
        size: Their height and width.
        view: The number of the view.
    """
    rng = generator(views.seed, Purpose.RELABEL, view)
    boxes = [random_box(size, rng, views.smallest_crop) for _ in range(count)]
    mirrored = (torch.rand(count, generator=rng) < 0.5) & views.flip
    partners = torch.randperm(count, generator=rng)
    parts = [cutmix_box(size, rng) for _ in range(count)]
    mixed = torch.rand(count, generator=rng) < views.cutmix
    nothing = Box(0, 0, 0, 0)
    return Plan(
        boxes, mirrored, partners, [box if chosen else nothing for box, chosen in zip(parts, mixed, strict=True)]
    )


def cutmix_box(size: tuple[int, int], generator: torch.Generator) -> Box:
    """A box around a random place whose sides are the same share of the image's, cut off where it leaves the image.

    Yun et al., ICCV 2019, https://arxiv.org/abs/1905.04899: the share of the area is uniform.

    Args:
        size: Height and width of the image.
        generator: On the CPU.
    """
    area, *places = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
    starts, ends = [], []
    for side, place in zip(size, places, strict=True):
        centre, half = int(side * place), int(side * area**0.5) // 2
        starts.append(max(centre - half, 0))
        ends.append(min(centre + half, side))
    return Box(starts[0], starts[1], ends[0] - starts[0], ends[1] - starts[1])


def pasted(images: Tensor, others: Tensor, boxes: list[Box]) -> Tensor:
    """Images into each of which a box of another one is pasted.

    Args:
        images: ``(B, C, H, W)``.
        others: Likewise.
        boxes: One an image.
    """
    mixed = images.clone()
    for image, other, box in zip(mixed, others, boxes, strict=True):
        place = ..., slice(box.top, box.top + box.height), slice(box.left, box.left + box.width)
        image[place] = other[place]
    return mixed


class StoredViews:
    """Views of a distilled set and the answers of a teacher about them, which ``lit-distill relabel`` wrote.

    Shen and Xing, A Fast Knowledge Distillation Framework for Visual Recognition, ECCV 2022,
    https://arxiv.org/abs/2112.01528; for distilled sets Yin et al., SRe2L, NeurIPS 2023,
    https://arxiv.org/abs/2306.13092. Answers are mapped into memory; of each the likeliest classes are kept, and the
    probability of all others together, which is shared out evenly.

    Args:
        folder: Of the labels.

    Raises:
        InputError: When labels are missing.

    Code: ``VILA-Lab/SRe2L:SRe2L/relabel/utils_fkd.py``, which stores each batch of one size, and has its users edit the
    source of torch to read it.
    """

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        if not complete(folder):
            raise InputError(f"labels: {folder} is missing or not complete; `lit-distill relabel` makes or finishes it")
        self.answers = SoftLabels(folder)
        self.card = self.answers.card
        self.views = Views(**self.card["how"])

    def __len__(self) -> int:
        return int(self.card["views"])

    def batch(self, images: Tensor, rows: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """Some images of the set as an epoch shows them, and log-probabilities of the teacher.

        Args:
            images: The set, ``(N, C, H, W)``.
            rows: Which images, int64 ``(B,)``.
            epoch: The epoch; after the last view that was stored the first one comes again.

        Returns:
            Images ``(B, C, H, W)`` and ``(B, classes)``, on the device of the set.
        """
        view = epoch % len(self)
        said = expand(self.answers.rows(rows, view), self.card["classes"])
        return self.views(images, rows, view), said.to(images.device)

    def loss(self, network: torch.nn.Module, images: Tensor, rows: Tensor, epoch: int, temperature: float) -> Tensor:
        """How far a network is from what the teacher said about a batch; see :func:`soft_divergence`."""
        x, said = self.batch(images, rows, epoch)
        return soft_divergence(network(x), said, temperature)


def stored_views(folder: Path, images: str) -> StoredViews | None:
    """The labels beside a distilled set, if they are complete.

    Args:
        folder: The distilled set.
        images: Its checksum.

    Raises:
        InputError: When they belong to another set.
    """
    if not complete(folder / FOLDER):
        return None
    stored = StoredViews(folder / FOLDER)
    if stored.card.get("images") != images:
        raise InputError(f"labels: {folder / FOLDER} was made for another set; delete it and relabel this one")
    return stored


def facts(views: Views, count: int, images: str) -> dict[str, Any]:
    """What of a card decides which images the labels belong to.

    Args:
        views: How views are made.
        count: How many there are.
        images: Checksum of the set.
    """
    return {"images": images, "views": count, "how": asdict(views)}


def _cut(images: Tensor, rows: Tensor, plan: Plan) -> Tensor:
    size = images.shape[-2], images.shape[-1]
    parts = [cropped(images[row, None], plan.boxes[row], size) for row in rows.tolist()]
    mirrored = plan.mirrored[rows].to(images.device)
    x = torch.cat(parts)
    return torch.where(mirrored[:, None, None, None], x.flip(-1), x)
