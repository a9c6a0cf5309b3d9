"""Mosaics of the real crops that a teacher finds most typical (RDED)."""

import torch
from torch import Tensor, nn

from lit_distill.core.frozen import Frozen
from lit_distill.data.class_batches import ClassBatches
from lit_distill.dataset.crops import cropped, random_box
from lit_distill.dataset.networks.committee import knows
from lit_distill.dataset.step import Labelled
from lit_distill.dataset.synthetic.base import SyntheticSet, enough
from lit_distill.errors import InputError

BATCH = 512  # crops that a teacher sees at once


def padded(crops: Tensor, size: tuple[int, int]) -> Tensor:
    """Crops in the middle of images that are 0 elsewhere, ``(B, C, *size)``.

    Args:
        crops: ``(B, C, h, w)``.
        size: Height and width of the images.
    """
    down, right = size[0] - crops.shape[-2], size[1] - crops.shape[-1]
    return nn.functional.pad(crops, (right // 2, right - right // 2, down // 2, down - down // 2))


def best_crops(crops: Tensor, scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Of each image its best crop, and of these the best.

    Args:
        crops: ``(N, crops, C, h, w)``.
        scores: The lower the better, ``(N, crops)``.
        count: How many are wanted, at most N.

    Returns:
        The crops ``(count, C, h, w)``, best first, and which images they are from, ``(count,)``.
    """
    score, place = scores.min(1)
    order = score.argsort(stable=True)[:count]
    return crops[order, place[order]], order


def mosaics(tiles: Tensor, factor: int, size: tuple[int, int]) -> Tensor:
    """Images of ``factor`` times ``factor`` tiles.

    Tile k of image i, row by row, is ``tiles[k * n + i]``: of tiles that are sorted the best are all at the top left.
    Where the size is no multiple of ``factor``, the first rows and columns of tiles are a pixel larger.

    Args:
        tiles: ``(n * factor**2, C, h, w)``.
        factor: Tiles a side.
        size: Height and width of the images.

    Returns:
        ``(n, C, *size)``.
    """
    heights, widths = ([side // factor + (i < side % factor) for i in range(factor)] for side in size)
    parts = iter(tiles.chunk(factor**2))
    rows = [torch.cat([nn.functional.interpolate(next(parts), size=(h, w)) for w in widths], -1) for h in heights]
    return torch.cat(rows, -2)


class Patches(SyntheticSet):
    r"""Mosaics of real crops that a teacher is surest of; nothing is learned.

    Paper: Sun, Shi, Yuan and Lin, On the Diversity and Realism of Distilled Dataset: An Efficient Dataset Distillation
    Paradigm (RDED), CVPR 2024, https://arxiv.org/abs/2312.03526

    Of ``candidates`` real images of a class, each cut at random ``crops`` times, the crop with the least cross entropy
    of the teacher is kept, and of these those with the least. Crops are square, of a random share of the image, shrunk
    to 1 / ``factor`` of its sides, and in the middle of zeros when the teacher sees them. As networks are to be trained
    on what the teacher says about crops of the mosaics, see ``lit-distill relabel``.

    Args:
        teacher: The network that chooses, e.g. ``restored`` from a file with a recipe that trains it.
        factor: Tiles a side; the authors take 1 for images of 32 pixels and 2 for larger ones.
        candidates: Real images of each class to choose from; all where there are fewer.
        crops: Random crops of each of them.

    Raises:
        InputError: When an argument is below 1, ``factor`` is larger than an image, or a class has fewer images than
            there are tiles.

    Traps: the authors store JPEG files, whose losses the images here do not have.

    Code: ``LINs-lab/RDED:synthesize/utils.py``
    """

    images: Tensor

    def __init__(
        self,
        teacher: nn.Module,
        images_per_class: int = 1,
        factor: int = 1,
        candidates: int = 300,
        crops: int = 5,
    ) -> None:
        super().__init__(images_per_class)
        for name, value in (("factor", factor), ("candidates", candidates), ("crops", crops)):
            if value < 1:
                raise InputError(f"{name} must be at least 1, not {value}")
        if candidates < images_per_class * factor**2:
            raise InputError(
                f"candidates must be at least the number of tiles, {images_per_class * factor**2}, not {candidates}"
            )
        self.teacher = Frozen(teacher)
        self.factor = factor
        self.candidates = candidates
        self.crops = crops

    def build(self, num_classes: int, input_shape: tuple[int, int, int]) -> None:
        """Make the buffer ``images`` ``(classes, images_per_class, C, H, W)``, in normalised pixels."""
        if self.factor > min(input_shape[1:]):
            raise InputError(f"factor must be at most the side of an image, {min(input_shape[1:])}, not {self.factor}")
        self.num_classes = num_classes
        self.register_buffer("images", torch.zeros(num_classes, self.images_per_class, *input_shape))

    @torch.no_grad()
    def start(self, data: ClassBatches, generator: torch.Generator) -> None:
        """Let the teacher choose.

        Raises:
            InputError: When a class has fewer real images than there are tiles, or the teacher knows other classes.
        """
        knows(self.teacher.module, data, "teacher")
        tiles = self.images_per_class * self.factor**2
        enough(data, tiles)
        size = self.images.shape[-2], self.images.shape[-1]
        for c in range(self.num_classes):
            real = data.images_of(c)
            real = real[torch.randperm(len(real), generator=generator)[: self.candidates]]
            crops = self._cut(real, size, generator)
            chosen, _ = best_crops(crops, self._scores(crops, c, size).to(crops.device), tiles)
            self.images[c] = mosaics(chosen, self.factor, size)

    def decode(self, classes: Tensor) -> Labelled:
        """The mosaics of some classes."""
        classes = classes.to(self.images.device)
        return Labelled(self.images[classes], classes[:, None].expand(-1, self.images_per_class))

    def _cut(self, real: Tensor, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        """Random crops of each image, ``(N, crops, C, h, w)``."""
        small = size[0] // self.factor, size[1] // self.factor
        boxes = [random_box(size, generator, ratio=(1.0, 1.0)) for _ in range(len(real) * self.crops)]
        images = real.repeat_interleave(self.crops, 0)
        cut = torch.cat([cropped(image[None], box, small) for image, box in zip(images, boxes, strict=True)])
        return cut.unflatten(0, (len(real), self.crops))

    def _scores(self, crops: Tensor, label: int, size: tuple[int, int]) -> Tensor:
        """Cross entropy of the teacher, ``(N, crops)``."""
        seen = padded(crops.flatten(0, 1), size).to(self.images.device)
        logits = torch.cat([self.teacher.module(part) for part in seen.split(BATCH)])
        return -logits.log_softmax(-1)[:, label].unflatten(0, crops.shape[:2])
