"""A multilayer perceptron."""

from collections import OrderedDict
from math import prod
from typing import cast

from torch import Tensor, nn

from lit_distill.errors import InputError
from lit_distill.models.staged import StagedNetwork


class MLP(StagedNetwork):
    """Flatten, then linear layers with ReLUs between them.

    Stages: ``blocks.0``, ``blocks.1``, ..., one a hidden layer; before the activation, the input of its ReLU.

    >>> import torch
    >>> MLP((1, 8, 8), num_classes=10, hidden=(32, 16))(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])

    Args:
        input_shape: Shape of one sample, without the batch axis.
        num_classes: Number of classes.
        hidden: Width of each hidden layer; none makes a linear classifier.

    Raises:
        InputError: A sample of another shape.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...] = (1, 8, 8),
        num_classes: int = 10,
        hidden: tuple[int, ...] = (128, 128),
    ) -> None:
        super().__init__()
        self.input_shape = tuple(input_shape)
        self.flatten = nn.Flatten()
        widths = [prod(self.input_shape), *hidden]
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(OrderedDict(linear=nn.Linear(wide, narrow), relu=nn.ReLU()))
                for wide, narrow in zip(widths, hidden, strict=False)
            )
        )
        self.fc = nn.Linear(widths[-1], num_classes)
        if hidden:
            self.pooled_path = f"blocks.{len(hidden) - 1}"

    def stages(self, pre_activation: bool = False) -> tuple[str, ...]:
        """Paths of the hidden layers; see :meth:`StagedNetwork.stages`."""
        end = ".relu:input" if pre_activation else ""
        return tuple(f"blocks.{i}{end}" for i in range(len(self.blocks)))

    def forward(self, x: Tensor) -> Tensor:
        """Samples ``(B, *input_shape)`` to logits ``(B, num_classes)``."""
        if tuple(x.shape[1:]) != self.input_shape:
            raise InputError(f"MLP: input_shape is {self.input_shape}, but a sample has {tuple(x.shape[1:])}")
        return cast(Tensor, self.fc(self.blocks(self.flatten(x))))
