"""Mixtures beside the images that they are made of."""

import random

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from lit_distill.data.mix import Draws, Mix
from lit_distill.errors import InputError


class WithMixtures(Mix):
    """Batches hold every image as it is, and then mixtures of it: all images first, then all first mixtures, ...

    For terms that treat the two kinds differently: ``OnViews`` tells them apart, and ``EntropyPick`` keeps the
    mixtures of which the teacher is least certain. Networks see ``1 + count`` times as many images as ``batch_size``
    says.

    Args:
        mixture: How mixtures are made: ``Mixup``, ``CutMix``, ``MixupOrCutMix`` or ``PartialMix``.
        count: Mixtures of each image; each has weights or rectangles of its own.

    Raises:
        InputError: When ``count`` is below 1.
    """

    def __init__(self, mixture: Mix, count: int = 1) -> None:
        if count < 1:
            raise InputError(f"count: {count} is below 1")
        self.mixture = mixture
        self.count = count

    def mix(self, x: Tensor, other: Tensor, rng: random.Random) -> tuple[Tensor, float]:
        """Mix each image with another, as ``mixture`` does."""
        return self.mixture.mix(x, other, rng)

    def __call__(
        self, x: Tensor, target: Tensor, num_classes: int, rng: random.Random, draw: Draws | None = None
    ) -> tuple[Tensor, Tensor]:
        """A batch with its mixtures.

        Args:
            x: Images ``(B, C, H, W)``.
            target: Their classes, int64 ``(B,)``.
            num_classes: How many classes there are.
            rng: Where random numbers of the whole batch come from.
            draw: Where those of single samples come from.

        Returns:
            Images ``((1 + count) B, C, H, W)`` and class probabilities, float32 ``((1 + count) B, num_classes)``.
        """
        mixtures = [self.mixture(x, target, num_classes, rng, draw) for _ in range(self.count)]
        images, labels = zip((x, one_hot(target, num_classes).float()), *mixtures, strict=True)
        return torch.cat(images), torch.cat(labels)
