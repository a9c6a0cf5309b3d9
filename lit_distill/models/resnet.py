"""Residual networks for small images, of basic blocks."""

from typing import cast

from torch import Tensor, nn

from lit_distill.errors import InputError
from lit_distill.models.staged import StagedNetwork, init_fan_out


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; the last ReLU comes after the sum.

    Args:
        in_channels: Channels in.
        channels: Channels out.
        stride: Step of the first convolution.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` to ``(B, channels, H / stride, W / stride)``."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return cast(Tensor, self.relu2(out + shortcut))


class CifarResNet(StagedNetwork):
    """ResNet for 32x32 images: three stages of basic blocks at full, half and quarter resolution.

    Stages: ``layer1``, ``layer2``, ``layer3``; before the activation, the input of each stage's last ReLU.
    Parameters are named as in the authors' code, so checkpoints from there load.

    He et al., *Deep Residual Learning for Image Recognition*, CVPR 2016, https://arxiv.org/abs/1512.03385,
    section 4.2. Code: ``HobbitLong/RepDistiller:models/resnet.py``. The pooling here adapts to the size of
    the image; at 32x32 it is theirs.

    Args:
        depth: Number of weighted layers, ``6 n + 2`` for ``n`` blocks a stage.
        widths: Channels of the stem and of the three stages.
        num_classes: Number of classes.
        in_channels: Channels of the images.

    Raises:
        InputError: ``depth`` is not ``6 n + 2``.
    """

    stem_path = "relu"

    def __init__(
        self, depth: int, widths: tuple[int, int, int, int], num_classes: int = 100, in_channels: int = 3
    ) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise InputError(f"depth must be 6 n + 2 for n blocks a stage (8, 14, 20, ...), not {depth}")
        self.in_channels = in_channels
        self.blocks_per_stage = (depth - 2) // 6
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()
        self.layer1 = self._stage(widths[0], widths[1], stride=1)
        self.layer2 = self._stage(widths[1], widths[2], stride=2)
        self.layer3 = self._stage(widths[2], widths[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(widths[3], num_classes)
        init_fan_out(self)

    def _stage(self, in_channels: int, channels: int, stride: int) -> nn.Sequential:
        later = (BasicBlock(channels, channels, 1) for _ in range(self.blocks_per_stage - 1))
        return nn.Sequential(BasicBlock(in_channels, channels, stride), *later)

    def stages(self, pre_activation: bool = False) -> tuple[str, ...]:
        """Paths of the three stages; see :meth:`StagedNetwork.stages`."""
        last = f".{self.blocks_per_stage - 1}.relu2:input" if pre_activation else ""
        return tuple(f"layer{i}{last}" for i in (1, 2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(B, in_channels, H, W)`` to logits ``(B, num_classes)``."""
        self.check_images(x, self.in_channels)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return cast(Tensor, self.fc(self.flatten(self.avgpool(x))))


def resnet8(num_classes: int = 100, in_channels: int = 3) -> CifarResNet:
    """ResNet-8: 0.08 M parameters.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the images.
    """
    return CifarResNet(8, (16, 16, 32, 64), num_classes, in_channels)


def resnet14(num_classes: int = 100, in_channels: int = 3) -> CifarResNet:
    """ResNet-14: 0.18 M parameters.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the images.
    """
    return CifarResNet(14, (16, 16, 32, 64), num_classes, in_channels)


def resnet20(num_classes: int = 100, in_channels: int = 3) -> CifarResNet:
    """ResNet-20: 0.28 M parameters.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the images.
    """
    return CifarResNet(20, (16, 16, 32, 64), num_classes, in_channels)


def resnet32(num_classes: int = 100, in_channels: int = 3) -> CifarResNet:
    """ResNet-32: 0.47 M parameters.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the images.
    """
    return CifarResNet(32, (16, 16, 32, 64), num_classes, in_channels)


def resnet44(num_classes: int = 100, in_channels: int = 3) -> CifarResNet:
    """ResNet-44: 0.67 M parameters.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the images.
    """
    return CifarResNet(44, (16, 16, 32, 64), num_classes, in_channels)


def resnet56(num_classes: int = 100, in_channels: int = 3) -> CifarResNet:
    """ResNet-56: 0.86 M parameters.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the images.
    """
    return CifarResNet(56, (16, 16, 32, 64), num_classes, in_channels)


def resnet110(num_classes: int = 100, in_channels: int = 3) -> CifarResNet:
    """ResNet-110: 1.74 M parameters.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the images.
    """
    return CifarResNet(110, (16, 16, 32, 64), num_classes, in_channels)


def resnet8x4(num_classes: int = 100, in_channels: int = 3) -> CifarResNet:
    """ResNet-8, four times as wide: 1.23 M parameters.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the images.
    """
    return CifarResNet(8, (32, 64, 128, 256), num_classes, in_channels)


def resnet32x4(num_classes: int = 100, in_channels: int = 3) -> CifarResNet:
    """ResNet-32, four times as wide: 7.43 M parameters.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the images.
    """
    return CifarResNet(32, (32, 64, 128, 256), num_classes, in_channels)
