"""What one step of dataset distillation works with."""

from dataclasses import dataclass
from enum import IntEnum, unique
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from lit_distill.data.counter_rng import key

if TYPE_CHECKING:
    from lit_distill.dataset.augment import SiameseAugmentation
    from lit_distill.dataset.synthetic.base import SyntheticSet


@unique
class Purpose(IntEnum):
    """What random numbers are for; every purpose has a stream of its own."""

    START = 0
    NETWORK = 1
    AUGMENT = 2
    BATCH = 3
    EXPERT = 4
    TRAINING = 5
    EVALUATION = 6
    RELABEL = 7


class Labelled(NamedTuple):
    """Images of some classes, equally many of each.

    Attributes:
        images: ``(K, n, C, H, W)``, normalised.
        targets: Classes, int64 ``(K, n)``, or logits ``(K, n, classes)``.
    """

    images: Tensor
    targets: Tensor


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        seed: Of the run.
        number: Steps before this one.
        classes: The classes that this process works on, int64 ``(K,)``.
        real: Images of these classes.
        synthetic: The set that is being distilled.
        augment: What real and synthetic images go through before a network sees them.
    """

    seed: int
    number: int
    classes: Tensor
    real: Labelled
    synthetic: "SyntheticSet"
    augment: "SiameseAugmentation | None" = None

    @property
    def device(self) -> torch.device:
        """Where it is computed."""
        return self.real.images.device

    def generator(self, purpose: Purpose, *words: int) -> torch.Generator:
        """A generator on the CPU that depends on the seed, this step and ``words`` alone: on no rank, no history."""
        return generator(self.seed, purpose, self.number, *words)


def generator(seed: int, purpose: Purpose, *words: int) -> torch.Generator:
    """A generator on the CPU that depends on its arguments alone.

    Args:
        seed: Of the run.
        purpose: What is drawn.
        words: Which of the draws for this purpose.

    Example:
        >>> one, again = (generator(0, Purpose.NETWORK, 3) for _ in range(2))
        >>> torch.equal(torch.rand(2, generator=one), torch.rand(2, generator=again))
        True
    """
    return torch.Generator().manual_seed(key(seed, purpose, *words))
