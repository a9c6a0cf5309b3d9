"""Experts in flat minima (FTD)."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lit_distill.dataset.augment import SiameseAugmentation
from lit_distill.dataset.experts import Batch, ExpertTraining, slope
from lit_distill.dataset.unroll import Stateless
from lit_distill.errors import InputError

EPS = 1e-12


def gsam_gradient(
    loss: Callable[[Tensor], Tensor], weights: Tensor, rho: float = 0.01, alpha: float = 0.4, adaptive: bool = True
) -> tuple[Tensor, Tensor]:
    r"""What a step of GSAM follows: down at the worst place nearby, without giving up the descent here.

    .. math:: g_0 = \nabla L(w), \quad e = \rho \frac{a^2 g_0}{\lVert a g_0 \rVert}, \quad g_1 = \nabla L(w + e), \quad
        d = g_1 - \alpha \Big( g_0 - \frac{\langle g_0, g_1 \rangle}{\lVert g_1 \rVert^2} g_1 \Big)

    with :math:`a = \lvert w \rvert` where it is adaptive, else 1. Norms are over all weights.

    Args:
        loss: Of the weights.
        weights: Where, ``(P,)``.
        rho: How far the place may be.
        alpha: How much of :math:`g_0` that is orthogonal to :math:`g_1` is taken off.
        adaptive: Whether larger weights may move further.

    Returns:
        The direction ``(P,)``, and the loss at ``weights``.
    """
    first, value = slope(loss, weights)
    scale = weights.detach().abs() if adaptive else torch.ones_like(first)
    step = rho / ((scale * first).norm() + EPS) * scale.square() * first
    second, _ = slope(loss, weights.detach() + step)
    lengths = first.norm(), second.norm()
    cosine = torch.dot(first, second) / (lengths[0] * lengths[1] + EPS)
    return second - alpha * (first - cosine * lengths[0] * second / (lengths[1] + EPS)), value


class FlatExperts(ExpertTraining):
    """Experts whose trajectories lead through flat minima, as a student's errors add up less there (FTD).

    Du et al., Minimizing the Accumulated Trajectory Error to Improve Dataset Distillation, CVPR 2023,
    https://arxiv.org/abs/2211.11004. Every step follows :func:`gsam_gradient`. The student matches them as in
    :class:`MTT`; the images that are kept are an average over steps (:class:`AveragedPixels`).

    Args:
        epochs: How many epochs; weights are kept before the first and after each.
        lr: Learning rate.
        momentum: Of SGD.
        weight_decay: Of SGD.
        batch_size: Images a step.
        decay: What the learning rate is multiplied with once, after half of the epochs and one more.
        augment: What images go through, each by itself. Default: none.
        seed: Of weights, order and augmentation.
        rho: How far the worst place nearby may be. 0.01 in the published runs, though 2 in the script.
        alpha: How much of the descent here is kept; 0.3 to 1 in the published runs.
        adaptive: Whether larger weights may move further.

    Raises:
        InputError: When a number is outside its range.

    Code: ``AngusDujw/FTD-distillation:buffer/buffer_FTD.py``, ``buffer/gsam/gsam.py``
    """

    def __init__(
        self,
        epochs: int = 50,
        lr: float = 0.01,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        batch_size: int = 256,
        decay: float = 1.0,
        augment: SiameseAugmentation | None = None,
        seed: int = 0,
        rho: float = 0.01,
        alpha: float = 0.4,
        adaptive: bool = True,
    ) -> None:
        super().__init__(epochs, lr, momentum, weight_decay, batch_size, decay, augment, seed)
        if not (rho > 0 and alpha >= 0):
            raise InputError(f"rho must be positive and alpha not negative, not {rho} and {alpha}")
        self.rho = rho
        self.alpha = alpha
        self.adaptive = adaptive

    def gradient(self, network: Stateless, weights: Tensor, batch: Batch, epoch: int) -> tuple[Tensor, Tensor]:
        """What a step follows, and the cross entropy before it."""

        def loss(at: Tensor) -> Tensor:
            return cross_entropy(network(at, batch.augmented), batch.y)

        return gsam_gradient(loss, weights, self.rho, self.alpha, self.adaptive)
