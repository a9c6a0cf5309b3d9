"""What every objective of dataset distillation is."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from lit_distill.dataset.step import Step


class Objective(nn.Module, ABC):
    """How far the synthetic set is from doing what the real one does.

    An objective of your own overrides :meth:`forward`.
    """

    @abstractmethod
    def forward(self, step: Step, network: Any) -> Tensor:
        """The loss of one step, a scalar that is differentiable for the synthetic set.

        Where it is a sum over classes it is taken over ``step.classes``, which are this process's share.

        Args:
            step: Real and synthetic images, augmentation and random numbers.
            network: What the sampler drew.
        """

    def check(self, network: Any) -> None:
        """Refuse a network that the method cannot use.

        Args:
            network: What the sampler draws.
        """
