"""Mixture of an image with itself, which needs no other label."""

import random

from torch import Tensor

from lit_distill.data.mix import Mix
from lit_distill.errors import InputError


class SelfMix(Mix):
    r"""SelfMix: a rectangle of an image pasted elsewhere into the same image.

    Shen, "FerKD: Surgical Label Adaptation for Efficient Distillation", ICCV 2023, https://arxiv.org/abs/2312.17473:
    with labels that a teacher gave beforehand Mixup and CutMix are too strong, and a mixture within the image is mild.
    The authors' code of it is not public. Here a rectangle M with the shape of the image and a share of its area drawn
    from a Beta distribution, anywhere in it, is covered with one of the same size from anywhere else in the same view:

    .. math::
        \tilde x = M \odot \mathrm{shift}(x) + (1 - M) \odot x, \quad \tilde y = y, \qquad
        \frac{|M|}{H W} = 1 - \lambda, \quad \lambda \sim \mathrm{Beta}(\alpha, \alpha)

    with one M and one shift a batch. The label stays, and so does a stored one: this is the only mixture that
    :class:`~lit_distill.store.StoredDistiller` takes.

    Args:
        alpha: Both parameters of the Beta distribution; 1 makes every area equally likely.

    Raises:
        InputError: When ``alpha`` is not positive.

    Example:
        >>> import torch
        >>> mixed, label = SelfMix()(torch.rand(2, 1, 8, 8), torch.tensor([1, 0]), 2, random.Random(0))
        >>> label
        tensor([[0., 1.],
                [1., 0.]])
    """

    def __init__(self, alpha: float = 1.0) -> None:
        if not alpha > 0:
            raise InputError(f"alpha: {alpha} is not a parameter of a Beta distribution; give a number above 0")
        self.alpha = float(alpha)

    def mix(self, x: Tensor, other: Tensor, rng: random.Random) -> tuple[Tensor, float]:
        """Mix each image with itself, see :meth:`Mix.mix`; the other images have no part in it."""
        height, width = x.shape[-2:]
        side = (1 - rng.betavariate(self.alpha, self.alpha)) ** 0.5
        high, wide = round(height * side), round(width * side)
        top, source_top = (rng.randrange(height - high + 1) for _ in range(2))
        left, source_left = (rng.randrange(width - wide + 1) for _ in range(2))
        mixed = x.clone()
        mixed[..., top : top + high, left : left + wide] = x[
            ..., source_top : source_top + high, source_left : source_left + wide
        ]
        return mixed, 1.0
