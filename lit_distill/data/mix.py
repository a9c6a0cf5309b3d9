"""Mixtures of two images with mixed labels; the teacher sees the same mixed image as the student."""

import random
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from lit_distill.data.counter_rng import Draw
from lit_distill.errors import InputError

#: One number a sample for a purpose, uniform in [0, 1), ``(B,)``; a sample's is the same in any batch.
Draws = Callable[[Draw], Tensor]


class Mix(ABC):
    """Mixes neighbours of a batch: the first image with the second, the third with the fourth, and so on.

    A shuffled batch makes neighbours as random a pair as any, and pairs that no process boundary cuts make the
    result independent of how many processes share the batch (where each has an even number of images). The last
    image of an odd batch stays as it is.
    """

    @abstractmethod
    def mix(self, x: Tensor, other: Tensor, rng: random.Random) -> tuple[Tensor, float]:
        """Mix each image with another.

        Args:
            x: Images ``(B, C, H, W)``.
            other: The image that each is mixed with, ``(B, C, H, W)``.
            rng: Where random numbers come from.

        Returns:
            The mixed images, and how much of each still comes from ``x``.
        """

    def __call__(
        self, x: Tensor, target: Tensor, num_classes: int, rng: random.Random, draw: Draws | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mix the images of a batch and their labels.

        Args:
            x: Images ``(B, C, H, W)``.
            target: Their classes, int64 ``(B,)``.
            num_classes: How many classes there are.
            rng: Where random numbers of the whole batch come from.
            draw: Where those of single samples come from, for mixtures that need them.

        Returns:
            Mixed images ``(B, C, H, W)`` and class probabilities, float32 ``(B, num_classes)``.
        """
        partner = (torch.arange(len(x), device=x.device) ^ 1).clamp(max=len(x) - 1)
        mixed, own = self.mix(x, x[partner], rng)
        label = one_hot(target, num_classes).float()
        return mixed, own * label + (1 - own) * label[partner]


class Mixup(Mix):
    r"""Mixup: weighted means of two images.

    Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018, https://arxiv.org/abs/1710.09412.

    .. math::
        \tilde x = \lambda x_i + (1 - \lambda) x_j, \qquad \lambda \sim \mathrm{Beta}(\alpha, \alpha)

    with one :math:`\lambda` a batch, as in the official code, ``facebookresearch/mixup-cifar10:train.py``.

    Args:
        alpha: Both parameters of the Beta distribution; 1 makes every weight equally likely, less favours
            weights near 0 and 1.

    Raises:
        InputError: When ``alpha`` is not positive.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = _positive(alpha, "alpha")

    def mix(self, x: Tensor, other: Tensor, rng: random.Random) -> tuple[Tensor, float]:
        """Mix each image with another, see :meth:`Mix.mix`."""
        own = rng.betavariate(self.alpha, self.alpha)
        return torch.lerp(other, x, own), own


class CutMix(Mix):
    r"""CutMix: a rectangle of one image pasted into another.

    Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features", ICCV 2019,
    https://arxiv.org/abs/1905.04899, equations 1 and 2. The rectangle has a centre drawn uniformly from the image
    and the sides

    .. math::
        r_w = W \sqrt{1 - \lambda}, \quad r_h = H \sqrt{1 - \lambda}, \qquad
        \lambda \sim \mathrm{Beta}(\alpha, \alpha);

    what lies outside the image is cut off, and the labels are weighted by the area that was really pasted, as in
    the official code, ``clovaai/CutMix-PyTorch:train.py``.

    Args:
        alpha: Both parameters of the Beta distribution; 1 makes every area equally likely.

    Raises:
        InputError: When ``alpha`` is not positive.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = _positive(alpha, "alpha")

    def mix(self, x: Tensor, other: Tensor, rng: random.Random) -> tuple[Tensor, float]:
        """Mix each image with another, see :meth:`Mix.mix`."""
        height, width = x.shape[-2:]
        side = (1 - rng.betavariate(self.alpha, self.alpha)) ** 0.5
        top, bottom = _span(height, side, rng)
        left, right = _span(width, side, rng)
        mixed = x.clone()
        mixed[..., top:bottom, left:right] = other[..., top:bottom, left:right]
        return mixed, 1 - (bottom - top) * (right - left) / (height * width)


class MixupOrCutMix(Mix):
    """Mixup or CutMix, one of them drawn for every batch, as DeiT and most timm recipes train.

    Args:
        mixup_alpha: ``alpha`` of :class:`Mixup`.
        cutmix_alpha: ``alpha`` of :class:`CutMix`.
        cutmix_probability: How often it is CutMix, in [0, 1].

    Raises:
        InputError: When an ``alpha`` is not positive or the probability is outside [0, 1].
    """

    def __init__(self, mixup_alpha: float = 0.8, cutmix_alpha: float = 1.0, cutmix_probability: float = 0.5) -> None:
        self.mixup = Mixup(_positive(mixup_alpha, "mixup_alpha"))
        self.cutmix = CutMix(_positive(cutmix_alpha, "cutmix_alpha"))
        if not 0 <= cutmix_probability <= 1:
            raise InputError(f"cutmix_probability: {cutmix_probability} is not in [0, 1]")
        self.cutmix_probability = cutmix_probability

    def mix(self, x: Tensor, other: Tensor, rng: random.Random) -> tuple[Tensor, float]:
        """Mix each image with another, see :meth:`Mix.mix`."""
        drawn = self.cutmix if rng.random() < self.cutmix_probability else self.mixup
        return drawn.mix(x, other, rng)


def _span(length: int, share: float, rng: random.Random) -> tuple[int, int]:
    centre, half = rng.randrange(length), int(length * share) // 2
    return max(centre - half, 0), min(centre + half, length)


def _positive(alpha: float, name: str) -> float:
    if not alpha > 0:
        raise InputError(f"{name}: {alpha} is not a parameter of a Beta distribution; give a number above 0")
    return float(alpha)
