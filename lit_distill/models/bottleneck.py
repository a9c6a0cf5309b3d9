"""The ImageNet ResNet-50 with a stem for small images."""

from typing import cast

from torch import Tensor, nn

from lit_distill.models.staged import StagedNetwork, init_fan_out

STEM = 64
WIDTHS = (64, 128, 256, 512)  # inside a block; a block gives four times as many
BLOCKS = (3, 4, 6, 3)
EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut; the last ReLU comes after the sum.

    Args:
        in_channels: Channels in.
        channels: Channels of the 3x3 convolution; the block gives four times as many.
        stride: Step of the 3x3 convolution.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = channels * EXPANSION
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu3 = nn.ReLU()
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` to ``(B, 4 * channels, H / stride, W / stride)``."""
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.relu2(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return cast(Tensor, self.relu3(out + self.shortcut(x)))


class CifarResNet50(StagedNetwork):
    """ResNet-50 for 32x32 images: a 3x3 stem with stride 1 and no pooling, four stages of bottlenecks.

    Stages: ``layer1`` to ``layer4``; before the activation, the input of each stage's last ReLU. Parameters
    are named as in the authors' code, so checkpoints from there load.

    He et al., *Deep Residual Learning for Image Recognition*, CVPR 2016, https://arxiv.org/abs/1512.03385.
    Code: ``HobbitLong/RepDistiller:models/resnetv2.py``.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the images.
    """

    stem_path = "relu"
    classifier_path = "linear"

    def __init__(self, num_classes: int = 100, in_channels: int = 3) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.conv1 = nn.Conv2d(in_channels, STEM, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.relu = nn.ReLU()
        self.layer1 = _stage(STEM, WIDTHS[0], BLOCKS[0], stride=1)
        self.layer2 = _stage(WIDTHS[0] * EXPANSION, WIDTHS[1], BLOCKS[1], stride=2)
        self.layer3 = _stage(WIDTHS[1] * EXPANSION, WIDTHS[2], BLOCKS[2], stride=2)
        self.layer4 = _stage(WIDTHS[2] * EXPANSION, WIDTHS[3], BLOCKS[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(WIDTHS[3] * EXPANSION, num_classes)
        init_fan_out(self)

    def stages(self, pre_activation: bool = False) -> tuple[str, ...]:
        """Paths of the four stages; see :meth:`StagedNetwork.stages`."""
        if pre_activation:
            return tuple(f"layer{i}.{n - 1}.relu3:input" for i, n in enumerate(BLOCKS, start=1))
        return "layer1", "layer2", "layer3", "layer4"

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(B, in_channels, H, W)`` to logits ``(B, num_classes)``."""
        self.check_images(x, self.in_channels)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return cast(Tensor, self.linear(self.flatten(self.avgpool(x))))


def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    later = (Bottleneck(channels * EXPANSION, channels, 1) for _ in range(blocks - 1))
    return nn.Sequential(Bottleneck(in_channels, channels, stride), *later)


def resnet50(num_classes: int = 100, in_channels: int = 3) -> CifarResNet50:
    """ResNet-50 with a stem for 32x32 images: 23.71 M parameters.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the images.
    """
    return CifarResNet50(num_classes, in_channels)
