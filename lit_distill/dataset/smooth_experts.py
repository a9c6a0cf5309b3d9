"""Experts whose weights change smoothly (AST)."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lit_distill.dataset.augment import SiameseAugmentation
from lit_distill.dataset.experts import Batch, ExpertTraining, slope
from lit_distill.dataset.unroll import Stateless
from lit_distill.errors import InputError


def gradient_penalty(logits: Tensor, x: Tensor, mode: Literal["paper", "code"] = "code") -> Tensor:
    r"""How far the norm of the gradient for the input is from 1, squared, a mean.

    .. math:: \Big( \Big\lVert \nabla_x \sum_k f_k(x) \Big\rVert_2 - 1 \Big)^2

    Args:
        logits: Of the images, ``(B, C)``.
        x: Images ``(B, C, H, W)`` that require a gradient.
        mode: ``paper`` takes one norm an image; the ``code`` of the authors one a pixel, over channels alone.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    norm = gradient.norm(dim=1) if mode == "code" else gradient.flatten(1).norm(dim=1)
    return (norm - 1).square().mean()


class SmoothExperts(ExpertTraining):
    r"""Experts that learn slowly at first, and whose logits change evenly with the image (AST).

    Shen, Yang and Lam, Efficient Dataset Distillation through Alignment with Smooth and High-Quality Expert
    Trajectories, 2023, https://arxiv.org/abs/2310.10541

    .. math:: d_e \, \mathrm{CE}(f(\tilde x), y) + \gamma \, \Big( \Big\lVert \nabla_x \sum_k f_k(x) \Big\rVert_2 - 1
        \Big)^2

    with :math:`d_e` growing from 0.5 by 0.05 an epoch until it is 1, on augmented images :math:`\tilde x`, and the
    penalty on images as they are. The student is :class:`AST`.

    Args:
        epochs: How many epochs; weights are kept before the first and after each.
        lr: Learning rate.
        momentum: Of SGD.
        weight_decay: Of SGD.
        batch_size: Images a step.
        decay: What the learning rate is multiplied with once, after half of the epochs and one more.
        augment: What images go through, each by itself. Default: none.
        seed: Of weights, order and augmentation.
        penalty: :math:`\gamma`.
        mode: Whether the penalty has one norm an image (``paper``) or one a pixel (``code``).

    Raises:
        InputError: When a number is outside its range.

    Code: ``shenjiyuan123/AST-Alignment-with-Smooth-Expert:utils.py`` (epoch_gp), ``buffer.py``, where the first factors
    and ``decay`` differ between revisions.
    """

    def __init__(
        self,
        epochs: int = 50,
        lr: float = 0.003,
        momentum: float = 0.9,
        weight_decay: float = 0.001,
        batch_size: int = 256,
        decay: float = 0.6,
        augment: SiameseAugmentation | None = None,
        seed: int = 0,
        penalty: float = 2.0,
        mode: Literal["paper", "code"] = "code",
    ) -> None:
        super().__init__(epochs, lr, momentum, weight_decay, batch_size, decay, augment, seed)
        if not penalty >= 0:
            raise InputError(f"penalty must not be negative, not {penalty}")
        if mode not in ("paper", "code"):
            raise InputError(f"mode: {mode!r} given; accepted are paper, code")
        self.penalty = penalty
        self.mode = mode

    @staticmethod
    def factor(epoch: int) -> float:
        """What cross entropy counts in an epoch.

        Args:
            epoch: From 0.
        """
        return min(1.0, (10 + epoch) / 20)

    def loss(self, network: Stateless, weights: Tensor, batch: Batch, epoch: int) -> Tensor:
        """The loss of a batch, a scalar; see :meth:`ExpertTraining.gradient` for the arguments."""
        ce = cross_entropy(network(weights, batch.augmented), batch.y)
        x = batch.x.detach().requires_grad_()
        mode: Literal["paper", "code"] = "paper" if self.mode == "paper" else "code"
        return self.factor(epoch) * ce + self.penalty * gradient_penalty(network(weights, x), x, mode)

    def gradient(self, network: Stateless, weights: Tensor, batch: Batch, epoch: int) -> tuple[Tensor, Tensor]:
        """Gradient and value of the loss."""
        return slope(lambda at: self.loss(network, at, batch, epoch), weights)
