"""Dataset distillation as it was first proposed (DD)."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softplus

from lit_distill.data.class_batches import ClassBatches
from lit_distill.dataset.networks.base import NetworkSampler
from lit_distill.dataset.objectives.base import Objective
from lit_distill.dataset.step import Step
from lit_distill.dataset.synthetic.base import SyntheticSet
from lit_distill.dataset.unroll import Route, Stateless, StepLoss, unroll
from lit_distill.errors import InputError


class DD(Objective):
    r"""Synthetic images on which a few steps of gradient descent make a random network good at real images.

    Paper: Wang et al., Dataset Distillation, arXiv 2018, https://arxiv.org/abs/1811.10959, equation 3

    .. math:: \theta_{t+1} = \theta_t - \eta_t \nabla \mathrm{CE}(f_{\theta_t}(\tilde x_{t \bmod S}), \tilde y), \qquad
        L = \mathrm{CE}(f_{\theta_T}(x), y)

    over :math:`T = S E` steps: the :math:`S` batches of ``images_per_step`` images of each class are seen ``epochs``
    times, always in the same order, each time with a step size :math:`\eta_t` of its own, which is learned. Batches,
    order and step sizes belong together.

    Takes :class:`Fresh` networks without BatchNorm. The authors learn images from noise with Adam: learning rate 0.01,
    betas 0.5 and 0.999, halved every 40 of 400 epochs of batches of 1024.

    Args:
        epochs: How often the batches are seen.
        images_per_step: Images of each class a step. The set has a multiple of it.
        step_size: First step size; 0.001 for CIFAR-10.
        step_size_lr: Learning rate of the step sizes before the softplus that keeps them positive. Default: the
            optimizer's.
        route: How gradients come back through the steps; see :func:`lit_distill.dataset.unroll.unroll`.

    Raises:
        InputError: When a number is outside its range, the images do not make whole batches, or the network has
            BatchNorm.

    Code: ``ssnl/dataset-distillation:train_distilled_image.py``
    """

    def __init__(
        self,
        epochs: int = 3,
        images_per_step: int = 1,
        step_size: float = 0.02,
        step_size_lr: float | None = None,
        route: Route = "recompute",
    ) -> None:
        super().__init__()
        for name, count in (("epochs", epochs), ("images_per_step", images_per_step)):
            if count < 1:
                raise InputError(f"{name} must be at least 1, not {count}")
        self.first_step_size = usable(step_size)
        self.epochs = epochs
        self.images_per_step = images_per_step
        self.step_size_lr = step_size_lr
        self.route = route

    def start(
        self, synthetic: SyntheticSet, networks: NetworkSampler, data: ClassBatches, generator: torch.Generator
    ) -> None:
        """Make the step sizes.

        Raises:
            InputError: When the images do not make whole batches.
        """
        self.build(synthetic.images_per_class)

    def build(self, images_per_class: int) -> None:
        """Make the parameter ``raw``, step sizes before the softplus, ``(steps,)``.

        Args:
            images_per_class: Images of each class.

        Raises:
            InputError: When the images do not make whole batches.
        """
        if images_per_class % self.images_per_step:
            raise InputError(
                f"images_per_step must divide images_per_class, {images_per_class}, which {self.images_per_step} does "
                "not"
            )
        steps = images_per_class // self.images_per_step * self.epochs
        self.raw = nn.Parameter(torch.full((steps,), math.log(math.expm1(self.first_step_size))))

    def step_size(self) -> list[float]:
        """The step size of every step."""
        return [float(size) for size in softplus(self.raw.detach())]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The step sizes, with their learning rate."""
        return [with_lr([self.raw], self.step_size_lr)]

    def forward(self, step: Step, network: nn.Module) -> Tensor:
        """This process's share of the cross entropy of real images after the last step."""
        stateless = Stateless(network)
        synthetic = step.synthetic.whole()
        images, targets = ordered(synthetic.images), ordered(synthetic.targets)
        size = self.images_per_step * step.synthetic.num_classes
        batches = list(torch.arange(len(images)).split(size)) * self.epochs
        at = unroll(descent(stateless), stateless.flat(), images, targets, softplus(self.raw), batches, 0.0, self.route)
        real = step.real
        losses = cross_entropy(stateless(at, real.images.flatten(0, 1)), real.targets.flatten(), reduction="sum")
        return losses / (real.images.shape[1] * step.synthetic.num_classes)


def ordered(values: Tensor) -> Tensor:
    """The first of every class, then the second of every class, ...

    Args:
        values: ``(K, n, ...)``.

    Returns:
        ``(n K, ...)``.
    """
    return values.transpose(0, 1).flatten(0, 1)


def descent(network: Stateless) -> StepLoss:
    """What steps of training descend: cross entropy of classes or probabilities.

    Args:
        network: The network.
    """
    return lambda weights, x, y, i: cross_entropy(network(weights, x), y)


def usable(step_size: float) -> float:
    """The first step size, if it can be one.

    Args:
        step_size: What was given.

    Raises:
        InputError: When it is not positive and finite.
    """
    if not 0 < step_size < math.inf:
        raise InputError(f"step_size must be positive and finite, not {step_size}")
    return step_size


def with_lr(parameters: list[nn.Parameter], lr: float | None) -> dict[str, Any]:
    """A group of parameters, with a learning rate of its own where there is one.

    Args:
        parameters: The parameters.
        lr: The learning rate. Default: the optimizer's.
    """
    return {"params": parameters} | ({} if lr is None else {"lr": lr})
