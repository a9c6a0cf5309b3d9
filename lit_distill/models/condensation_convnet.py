"""The network of dataset condensation."""

from typing import cast

from torch import Tensor, nn

from lit_distill.errors import InputError
from lit_distill.models.convnet import Norm, norm_layer
from lit_distill.models.halving import HalvingPool
from lit_distill.models.staged import StagedNetwork


class CondensationConvNet(StagedNetwork):
    """The ConvNet that distilled datasets are made with and judged by: its classifier sees the whole last map.

    Zhao, Mopuri and Bilen, Dataset Condensation with Gradient Matching, ICLR 2021, https://arxiv.org/abs/2006.05929

    Blocks of 3x3 convolution, norm, ReLU and average pooling as in :class:`ConvNet`, then the last map flattened and
    one layer. The first convolution pads grey images by 3 instead of 1, which makes 32 pixels of 28. Its weights are
    initialised as torch does.

    Stages: ``blocks.0.relu``, ``blocks.1.relu``, ...; ``flatten`` is what distributions are matched on.

    >>> import torch
    >>> network = CondensationConvNet(input_shape=(1, 28, 28), width=16)
    >>> network(torch.zeros(2, 1, 28, 28)).shape, network.fc.in_features
    (torch.Size([2, 10]), 256)

    Args:
        input_shape: Channels, height and width of an image.
        num_classes: Number of classes.
        width: Channels of every block. 128 in all publications.
        depth: Number of blocks; each halves the image. 3 for images up to 32 pixels, 4 for 64, 5 for 128.
        norm: ``instance`` (a group a channel, with scale and shift, as published), ``batch``, ``group`` or ``none``.

    Raises:
        InputError: When ``norm`` is none of these, there is no block, or the images are too small for the blocks.

    Code: ``VICO-UoE/DatasetCondensation:networks.py``
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int] = (3, 32, 32),
        num_classes: int = 10,
        width: int = 128,
        depth: int = 3,
        norm: Norm = "instance",
    ) -> None:
        super().__init__()
        if depth < 1:
            raise InputError(f"depth must be at least 1, not {depth}")
        self.in_channels, *size = input_shape
        padding = 3 if self.in_channels == 1 else 1
        blocks = []
        for i in range(depth):
            convolution = nn.Conv2d(width if i else self.in_channels, width, 3, padding=padding if i == 0 else 1)
            block = nn.Sequential()
            for name, module in (
                ("conv", convolution),
                ("norm", norm_layer(norm, width)),
                ("relu", nn.ReLU()),
                ("pool", HalvingPool()),
            ):
                block.add_module(name, module)
            blocks.append(block)
            size = [(side + 2 * (convolution.padding[0] - 1)) // 2 for side in size]  # type: ignore[operator]
        if min(size) < 1:
            raise InputError(f"depth must leave at least one pixel of {input_shape}, not {depth}")
        self.input_shape = tuple(input_shape)
        self.blocks = nn.Sequential(*blocks)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(width * size[0] * size[1], num_classes)

    def stages(self, pre_activation: bool = False) -> tuple[str, ...]:
        """Paths of the blocks; see :meth:`StagedNetwork.stages`."""
        return tuple(f"blocks.{i}.relu{':input' if pre_activation else ''}" for i in range(len(self.blocks)))

    def features(self, x: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` to what the classifier sees, ``(B, D)``.

        Raises:
            InputError: When the images have another shape.
        """
        if x.shape[1:] != self.input_shape:
            shape = ", ".join(map(str, self.input_shape))
            raise InputError(f"CondensationConvNet takes images (batch, {shape}), not {tuple(x.shape)}")
        return cast(Tensor, self.flatten(self.blocks(x)))

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` to logits ``(B, num_classes)``."""
        return cast(Tensor, self.fc(self.features(x)))
