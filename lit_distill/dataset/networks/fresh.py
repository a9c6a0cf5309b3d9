"""Networks that have seen nothing."""

from collections.abc import Callable

import torch
from torch import nn

from lit_distill.dataset.networks.base import NetworkSampler
from lit_distill.dataset.step import Purpose, Step
from lit_distill.models.random_weights import seeded


class Fresh(NetworkSampler):
    """A new random network for each step, in training mode.

    Args:
        network: Builds the network. In YAML its class, e.g. ``{class_path: CondensationConvNet}`` with its arguments.
    """

    def __init__(self, network: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.network = network

    def draw(self, step: Step) -> nn.Module:
        """A network whose weights depend on the seed and the step's number alone."""
        return fresh(self.network, step.generator(Purpose.NETWORK)).to(step.device)


def fresh(network: Callable[[], nn.Module], generator: torch.Generator) -> nn.Module:
    """A new random network in training mode, none of whose parameters require a gradient.

    Args:
        network: Builds it.
        generator: Where its seed comes from; the global generators are left as they are.
    """
    seed = int(torch.randint(1 << 62, (), generator=generator))
    return seeded(network, seed).requires_grad_(False)
