"""Students of smooth experts (AST)."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from lit_distill.dataset.networks.experts import Trajectory
from lit_distill.dataset.objectives.trajectory import MTT, normalised_distance
from lit_distill.dataset.step import Purpose, Step
from lit_distill.dataset.unroll import Route, StepLoss, unroll
from lit_distill.errors import InputError

# Words that tell what a generator of Purpose.NETWORK is for.
PERTURB = 1


def perturbed(weight: Tensor, noise: Tensor, alpha: float) -> Tensor:
    r"""A convolution's weights, moved at random by a share of themselves.

    .. math:: w \Big( 1 + \alpha \frac{n}{\lVert n \rVert_2} \Big)

    Args:
        weight: Four dimensions; others stay as they are.
        noise: Of the same shape.
        alpha: The share, of the whole tensor.
    """
    return weight * (1 + alpha * noise / noise.norm()) if weight.ndim == 4 else weight


def balance(epoch: int, last: int) -> float:
    """What the inner loss is multiplied with, so that early and late pieces of a trajectory weigh alike.

    Args:
        epoch: At which the piece starts.
        last: Before which all pieces start.

    Example:
        >>> balance(10, 20) < balance(15, 20), balance(0, 20) < 1
        (True, True)
    """
    half = last // 2
    return math.log(epoch - half + 8, 5) if epoch >= half else 1 / math.log(half - epoch + 8, 5)


class AST(MTT):
    r"""MTT for smooth experts: with momentum, intermediate matching, perturbed starts and balanced steps.

    Paper: Shen, Yang and Lam, Efficient Dataset Distillation through Alignment with Smooth and High-Quality Expert
    Trajectories, arXiv 2023, https://arxiv.org/abs/2310.10541

    .. math:: L = \sum_{k=1}^{M} \omega_k \frac{\lVert \hat\theta_{k \lfloor N / M \rfloor} - \theta^*_{t+k} \rVert^2}
        {\lVert \theta^*_t - \theta^*_{t+k} \rVert^2}

    where the last term is of step :math:`N`. The student has momentum, starts at convolutions that are moved at random
    (:func:`perturbed`), and its inner loss is multiplied with :func:`balance`. Takes :class:`Experts` that were trained
    by :class:`SmoothExperts`, and images that start as real ones near the centres of clusters
    (:class:`RepresentativePixels`).

    Args:
        steps: :math:`N`, at least the epochs of a piece.
        batch_size: Synthetic images a step. Default: all.
        step_size: First step size of the student.
        step_size_lr: Learning rate of the step size.
        route: How gradients come back through the steps.
        momentum: Of the student; 0.9 in the code, where MTT has none.
        middle: Terms of the epochs in between: ``all`` count like the last (:math:`\omega_k` = 1), ``growing`` ones
            :math:`k / M`, or ``none``.
        perturb: By which share of themselves convolutions are moved at the start.
        balanced: Whether the inner loss is balanced.

    Raises:
        InputError: As of :class:`MTT`; when another argument is outside its range, or pieces are longer than ``steps``.

    Code: ``shenjiyuan123/AST-Alignment-with-Smooth-Expert:distill.py``, where the parts are flags
    """

    def __init__(
        self,
        steps: int = 20,
        batch_size: int | None = None,
        step_size: float = 0.01,
        step_size_lr: float = 1e-5,
        route: Route = "recompute",
        momentum: float = 0.9,
        middle: Literal["all", "growing", "none"] = "all",
        perturb: float = 1.0,
        balanced: bool = True,
    ) -> None:
        super().__init__(steps, batch_size, step_size, step_size_lr, route)
        if not (0 <= momentum < 1 and perturb >= 0):
            raise InputError(f"momentum must be in [0, 1) and perturb not negative, not {momentum} and {perturb}")
        if middle not in ("all", "growing", "none"):
            raise InputError(f"middle: {middle!r} given; accepted are all, growing, none")
        self.momentum = momentum
        self.middle = middle
        self.perturb = perturb
        self.balanced = balanced

    def forward(self, step: Step, trajectories: Sequence[Trajectory]) -> Tensor:
        """This process's share of the mean distance."""
        if self.perturb:
            trajectories = [self.moved(step, trajectory) for trajectory in trajectories]
        return super().forward(step, trajectories)

    def moved(self, step: Step, trajectory: Trajectory) -> Trajectory:
        """The trajectory from another start.

        Args:
            step: The step of distillation.
            trajectory: The expert's.
        """
        random = step.generator(Purpose.NETWORK, PERTURB, trajectory.number)
        parts = trajectory.network.parts(trajectory.start).values()
        start = [perturbed(w, torch.randn(w.shape, generator=random).to(w), self.perturb).flatten() for w in parts]
        return trajectory._replace(weights=torch.cat([torch.cat(start)[None], trajectory.weights[1:]]))

    def loss(self, step: Step, trajectory: Trajectory) -> StepLoss:
        """What the student's steps descend."""
        plain = super().loss(step, trajectory)
        factor = balance(trajectory.epoch, trajectory.last_epoch) if self.balanced else 1.0
        return lambda weights, x, y, i: factor * plain(weights, x, y, i)

    def distance(
        self, trajectory: Trajectory, images: Tensor, targets: Tensor, batches: Sequence[Tensor], loss: StepLoss
    ) -> Tensor:
        """How far the student is from the expert at the end and in between."""
        goals, steps = trajectory.weights[1:], len(batches)
        length = len(goals)
        if steps < length:
            raise InputError(f"steps must be at least the epochs of a piece, {length}, not {steps}")
        if self.middle == "none":
            return super().distance(trajectory, images, targets, batches, loss)
        at = [(k + 1) * (steps // length) for k in range(length - 1)] + [steps]
        seen = unroll(loss, trajectory.start, images, targets, self.rate, batches, self.momentum, self.route, at)
        factors = [(k + 1) / length if self.middle == "growing" else 1.0 for k in range(length)]
        terms = [f * normalised_distance(w, trajectory.start, g) for f, w, g in zip(factors, seen, goals, strict=True)]
        return torch.stack(terms).sum()
