"""A small plain convolutional network."""

from collections import OrderedDict
from math import gcd
from typing import Literal, cast

from torch import Tensor, nn

from lit_distill.errors import InputError
from lit_distill.models.staged import StagedNetwork

Norm = Literal["batch", "group", "instance", "none"]


class ConvNet(StagedNetwork):
    """Blocks of 3x3 convolution, norm, ReLU and average pooling; then the mean over space and one layer.

    Stages: ``blocks.0.relu``, ``blocks.1.relu``, ..., one a block, before its pooling; before the activation,
    the input of the same ReLU. For images from ``2 ** depth`` pixels on.

    With ``norm="batch"`` what a sample gets depends on its batch, so two processes that share a batch do not
    repeat one process; with any other they do.

    >>> import torch
    >>> ConvNet(in_channels=1, width=8, depth=2, norm="group")(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])

    Args:
        in_channels: Channels of the images.
        num_classes: Number of classes.
        width: Channels of every block.
        depth: Number of blocks; each halves the image.
        norm: ``batch``; ``group``, in eight groups or as many as divide ``width``; ``instance``, a group a
            channel (the choice of dataset distillation); or ``none``.

    Raises:
        InputError: ``norm`` is none of these; no block; images smaller than ``2 ** depth`` pixels.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 10,
        width: int = 32,
        depth: int = 3,
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        if depth < 1:
            raise InputError(f"depth must be at least 1, not {depth}")
        self.in_channels = in_channels
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    OrderedDict(
                        conv=nn.Conv2d(width if i else in_channels, width, 3, padding=1),
                        norm=norm_layer(norm, width),
                        relu=nn.ReLU(),
                        pool=nn.AvgPool2d(2),
                    )
                )
                for i in range(depth)
            )
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(width, num_classes)

    def stages(self, pre_activation: bool = False) -> tuple[str, ...]:
        """Paths of the blocks; see :meth:`StagedNetwork.stages`."""
        return tuple(f"blocks.{i}.relu{':input' if pre_activation else ''}" for i in range(len(self.blocks)))

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(B, in_channels, H, W)`` to logits ``(B, num_classes)``."""
        self.check_images(x, self.in_channels, smallest=2 ** len(self.blocks))
        return cast(Tensor, self.fc(self.flatten(self.avgpool(self.blocks(x)))))


def norm_layer(norm: Norm, width: int) -> nn.Module:
    """A normalisation of maps with ``width`` channels; see :class:`ConvNet`."""
    if norm == "batch":
        return nn.BatchNorm2d(width)
    if norm == "group":
        return nn.GroupNorm(gcd(8, width), width)
    if norm == "instance":
        # Not InstanceNorm2d, which has no parameters by default and refuses to train on a single pixel.
        return nn.GroupNorm(width, width)
    if norm == "none":
        return nn.Identity()
    raise InputError(f"norm must be batch, group, instance or none, not {norm!r}")
