"""Matching the trajectories of experts (MTT), also as TESLA does it."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lit_distill.dataset.networks.experts import Trajectory
from lit_distill.dataset.objectives.base import Objective
from lit_distill.dataset.objectives.unrolled import usable, with_lr
from lit_distill.dataset.step import Labelled, Purpose, Step
from lit_distill.dataset.unroll import Route, StepLoss, batches_of, unroll
from lit_distill.errors import InputError
from lit_distill.losses.precision import fp32


@fp32
def normalised_distance(weights: Tensor, start: Tensor, target: Tensor) -> Tensor:
    r"""How far from the target, compared with the start.

    .. math:: \frac{\lVert \hat\theta - \theta^* \rVert^2}{\lVert \theta_0 - \theta^* \rVert^2}

    Args:
        weights: Where the student is, ``(P,)``.
        start: Where it began, ``(P,)``.
        target: Where it should be, ``(P,)``.
    """
    return (weights - target).square().sum() / (start - target).square().sum()


class MTT(Objective):
    r"""Synthetic images on which a student comes in a few steps to where an expert came in epochs of real images.

    Paper: Cazenavette et al., Dataset Distillation by Matching Training Trajectories, CVPR 2022,
    https://arxiv.org/abs/2203.11932, equation 2

    .. math:: L = \frac{\lVert \hat\theta_{t+N} - \theta^*_{t+M} \rVert^2}{\lVert \theta^*_t - \theta^*_{t+M} \rVert^2}

    The student starts at an expert's weights :math:`\theta^*_t` and takes :math:`N` steps of plain SGD on the synthetic
    images, whose step size is learned with them; the expert took :math:`M` epochs. Takes :class:`Experts`. With several
    of them a step the loss is their mean. Augmentation draws anew for every image of every step.

    The authors learn images with SGD, learning rate 1000 and momentum 0.5, 5,000 iterations, :math:`M` 3, starts before
    epoch 25. With :class:`FlatExperts` and :class:`AveragedPixels` this is FTD (Du et al., CVPR 2023,
    https://arxiv.org/abs/2211.11004).

    Args:
        steps: :math:`N`.
        batch_size: Synthetic images a step. Default: all.
        step_size: First step size of the student.
        step_size_lr: Learning rate of the step size.
        route: How gradients come back through the steps; see :func:`lit_distill.dataset.unroll.unroll`.

    Raises:
        InputError: When a number is outside its range, the network has BatchNorm, or the step size becomes no number.

    Code: ``GeorgeCazenavette/mtt-distillation:distill.py``
    """

    momentum = 0.0

    def __init__(
        self,
        steps: int = 20,
        batch_size: int | None = None,
        step_size: float = 0.01,
        step_size_lr: float = 1e-5,
        route: Route = "recompute",
    ) -> None:
        super().__init__()
        for name, count in (("steps", steps), ("batch_size", batch_size)):
            if count is not None and count < 1:
                raise InputError(f"{name} must be at least 1, not {count}")
        self.steps = steps
        self.batch_size = batch_size
        self.rate = nn.Parameter(torch.tensor([usable(step_size)]))
        self.step_size_lr = step_size_lr
        self.route = route

    def step_size(self) -> float:
        """The step size of the student."""
        return float(self.rate.detach())

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The step size, with its learning rate."""
        return [with_lr([self.rate], self.step_size_lr)]

    def forward(self, step: Step, trajectories: Sequence[Trajectory]) -> Tensor:
        """This process's share of the mean distance.

        Raises:
            InputError: When the step size is no number any more.
        """
        if not math.isfinite(size := self.step_size()):
            raise InputError(f"step_size is {size} after {step.number} steps; lower step_size_lr or the optimizer's lr")
        synthetic = step.synthetic.whole()
        images = synthetic.images.flatten(0, 1)
        losses = []
        for trajectory in trajectories:
            targets = self.targets(synthetic, trajectory).flatten(0, 1)
            count, random = len(images), step.generator(Purpose.BATCH, trajectory.number)
            batches = batches_of(count, self.batch_size, self.steps, random)
            losses.append(self.distance(trajectory, images, targets, batches, self.loss(step, trajectory)))
        total = torch.stack(losses).sum()
        return total * trajectories[0].share

    def targets(self, synthetic: Labelled, trajectory: Trajectory) -> Tensor:
        """What a student is taught: classes ``(K, n)``, or probabilities ``(K, n, classes)``.

        Args:
            synthetic: The whole set.
            trajectory: What is matched.
        """
        return synthetic.targets

    def loss(self, step: Step, trajectory: Trajectory) -> StepLoss:
        """What the student's steps descend.

        Args:
            step: The step of distillation.
            trajectory: What is matched.
        """

        def loss(weights: Tensor, x: Tensor, y: Tensor, i: int) -> Tensor:
            if step.augment is not None:
                x = step.augment.each(x, step.generator(Purpose.AUGMENT, trajectory.number, i))
            return cross_entropy(trajectory.network(weights, x), y)

        return loss

    def distance(
        self, trajectory: Trajectory, images: Tensor, targets: Tensor, batches: Sequence[Tensor], loss: StepLoss
    ) -> Tensor:
        """How far the student ends from the expert, a scalar.

        Args:
            trajectory: What is matched.
            images: The whole set, ``(M, C, H, W)``.
            targets: Of these, ``(M,)`` or ``(M, classes)``.
            batches: For each step which images it sees.
            loss: What the steps descend.
        """
        weights = unroll(loss, trajectory.start, images, targets, self.rate, batches, self.momentum, self.route)
        return normalised_distance(weights, trajectory.start, trajectory.target)


class TESLA(MTT):
    r"""MTT with an approximate gradient of constant memory, and soft labels from the expert.

    Paper: Cui et al., Scaling Up Dataset Distillation to ImageNet-1K with Constant Memory, ICML 2023,
    https://arxiv.org/abs/2211.10586, equation 7

    .. math:: \frac{\partial L}{\partial X_i} = \frac{2}{\lVert \theta^*_t - \theta^*_{t+M} \rVert^2}
        \frac{\partial}{\partial X_i}
        \Big\langle \eta (\theta^*_{t+M} - \theta^*_t) + \eta^2 \sum_j g_j, g_i \Big\rangle

    with the gradients :math:`g_j` of the student's steps. How later steps depend on earlier ones is left out, so that
    it is the gradient of MTT for one step alone. MTT itself needs no more memory here (``route: recompute``) and is
    exact.

    Args:
        steps: Of the student.
        batch_size: Synthetic images a step. Default: all.
        step_size: First step size of the student.
        step_size_lr: Learning rate of the step size.
        soft_labels: Whether images are labelled by the expert at the target, anew in every step, as the authors do on
            ImageNet.

    Raises:
        InputError: As of :class:`MTT`.

    Code: ``justincui03/tesla:distill.py``. The factor 2 is lost there, which is made up for by the learning rate, and
    soft labels crash but on ImageNet; here it is as in the paper.
    """

    def __init__(
        self,
        steps: int = 20,
        batch_size: int | None = None,
        step_size: float = 0.01,
        step_size_lr: float = 1e-5,
        soft_labels: bool = False,
    ) -> None:
        super().__init__(steps, batch_size, step_size, step_size_lr, "tesla")
        self.soft_labels = soft_labels

    @torch.no_grad()
    def targets(self, synthetic: Labelled, trajectory: Trajectory) -> Tensor:
        """Classes, or what the expert says at the target."""
        if not self.soft_labels:
            return synthetic.targets
        answers = trajectory.network(trajectory.target, synthetic.images.flatten(0, 1)).softmax(1)
        return answers.unflatten(0, synthetic.images.shape[:2])
