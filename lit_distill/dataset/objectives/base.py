"""What every objective of dataset distillation is."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lit_distill.data.class_batches import ClassBatches
from lit_distill.dataset.networks.base import NetworkSampler
from lit_distill.dataset.step import Step
from lit_distill.dataset.synthetic.base import SyntheticSet


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

    def start(
        self, synthetic: SyntheticSet, networks: NetworkSampler, data: ClassBatches, generator: torch.Generator
    ) -> None:
        """Make what depends on the other parts, before the first step; by default nothing.

        Args:
            synthetic: The synthetic set, which has started.
            networks: The sampler, which has started.
            data: The real images.
            generator: For what is random.
        """

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What the objective learns itself, as an optimizer takes it; with a learning rate of its own it says so."""
        learned = [p for p in self.parameters() if p.requires_grad]
        return [{"params": learned}] if learned else []

    def step_size(self) -> float | list[float] | None:
        """The learning rate that was learned with the images, one or one a step, if there is one."""
        return None

    def before_update(self, parameters: Sequence[Tensor]) -> None:
        """Look at the gradients before the optimizer does; by default nothing.

        Args:
            parameters: What the optimizer learns; their gradients are those of all processes.
        """

    def check(self, network: Any) -> None:
        """Refuse a network that the method cannot use.

        Args:
            network: What the sampler draws.
        """
