"""Where an objective's networks come from."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import nn

from lit_distill.data.class_batches import ClassBatches
from lit_distill.dataset.step import Step


class NetworkSampler(nn.Module, ABC):
    """Gives each step its network.

    The networks are no submodules: they are neither trained by the run's optimizer nor kept equal between processes.
    A sampler whose networks live through several steps keeps what a resumed run needs in its ``get_extra_state``.
    """

    def start(self, data: ClassBatches, device: torch.device) -> None:
        """Make what all steps need, before the first; by default nothing.

        Args:
            data: The real images.
            device: Where steps are computed.
        """

    @abstractmethod
    def draw(self, step: Step) -> Any:
        """The network for a step, on the step's device; the same on every process unless the sampler says otherwise.

        Args:
            step: The step.
        """

    def advance(self, step: Step) -> None:
        """What happens to the network when the synthetic set has moved; by default nothing.

        Args:
            step: The step that was made.
        """
