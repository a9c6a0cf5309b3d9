"""Wide residual networks."""

from collections import OrderedDict
from typing import cast

from torch import Tensor, nn

from lit_distill.errors import InputError
from lit_distill.models.staged import StagedNetwork, init_fan_out


class PreActivationBlock(nn.Module):
    """Norm, ReLU, convolution, twice, and a shortcut; nothing after the sum.

    Where the number of channels changes, the shortcut starts after the first ReLU too.

    Args:
        in_channels: Channels in.
        channels: Channels out.
        stride: Step of the first convolution.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        # Spelled as in the authors' code, for their checkpoints.
        self.convShortcut: nn.Conv2d | None = None
        if in_channels != channels:
            self.convShortcut = nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` to ``(B, channels, H / stride, W / stride)``."""
        active = self.relu1(self.bn1(x))
        out = self.conv2(self.relu2(self.bn2(self.conv1(active))))
        return cast(Tensor, out + (x if self.convShortcut is None else self.convShortcut(active)))


class WideResNet(StagedNetwork):
    """Wide ResNet for 32x32 images: three stages of pre-activation blocks.

    Stages: ``block1``, ``block2``, ``block3``. A block ends in a sum with no ReLU after it, so these features
    are not rectified, and neither is the stem's. The pre-activation of a stage is what the *next* ReLU takes:
    the normalised output of the stage, found inside the following stage (``block2.layer.0.relu1:input``) and,
    for the last one, before the pooling (``relu:input``). This is how the authors' code defines both.
    Parameters are named as there, so checkpoints from there load.

    Zagoruyko and Komodakis, *Wide Residual Networks*, BMVC 2016, https://arxiv.org/abs/1605.07146. Code:
    ``HobbitLong/RepDistiller:models/wrn.py``. The pooling here adapts to the size of the image; at 32x32 it
    is theirs.

    Args:
        depth: Number of weighted layers, ``6 n + 4`` for ``n`` blocks a stage.
        widen_factor: Channels relative to 16, 32 and 64.
        num_classes: Number of classes.
        in_channels: Channels of the images.

    Raises:
        InputError: ``depth`` is not ``6 n + 4``.
    """

    stem_path = "conv1"

    def __init__(self, depth: int, widen_factor: int, num_classes: int = 100, in_channels: int = 3) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise InputError(f"depth must be 6 n + 4 for n blocks a stage (10, 16, 22, ...), not {depth}")
        self.in_channels = in_channels
        blocks = (depth - 4) // 6
        widths = [16 * widen_factor, 32 * widen_factor, 64 * widen_factor]
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.block1 = _stage(16, widths[0], blocks, stride=1)
        self.block2 = _stage(widths[0], widths[1], blocks, stride=2)
        self.block3 = _stage(widths[1], widths[2], blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(widths[2])
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(widths[2], num_classes)
        init_fan_out(self)
        nn.init.zeros_(self.fc.bias)

    def stages(self, pre_activation: bool = False) -> tuple[str, ...]:
        """Paths of the three stages; see :meth:`StagedNetwork.stages`."""
        if pre_activation:
            return "block2.layer.0.relu1:input", "block3.layer.0.relu1:input", "relu:input"
        return "block1", "block2", "block3"

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(B, in_channels, H, W)`` to logits ``(B, num_classes)``."""
        self.check_images(x, self.in_channels)
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return cast(Tensor, self.fc(self.flatten(self.avgpool(self.relu(self.bn1(x))))))


def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    later = (PreActivationBlock(channels, channels, 1) for _ in range(blocks - 1))
    layer = nn.Sequential(PreActivationBlock(in_channels, channels, stride), *later)
    return nn.Sequential(OrderedDict(layer=layer))


def wrn_16_1(num_classes: int = 100, in_channels: int = 3) -> WideResNet:
    """Wide ResNet of depth 16, widened 1 time: 0.18 M parameters.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the images.
    """
    return WideResNet(16, 1, num_classes, in_channels)


def wrn_16_2(num_classes: int = 100, in_channels: int = 3) -> WideResNet:
    """Wide ResNet of depth 16, widened 2 times: 0.70 M parameters.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the images.
    """
    return WideResNet(16, 2, num_classes, in_channels)


def wrn_40_1(num_classes: int = 100, in_channels: int = 3) -> WideResNet:
    """Wide ResNet of depth 40, widened 1 time: 0.57 M parameters.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the images.
    """
    return WideResNet(40, 1, num_classes, in_channels)


def wrn_40_2(num_classes: int = 100, in_channels: int = 3) -> WideResNet:
    """Wide ResNet of depth 40, widened 2 times: 2.26 M parameters.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the images.
    """
    return WideResNet(40, 2, num_classes, in_channels)
