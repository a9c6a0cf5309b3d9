"""ShuffleNet for small images."""

from typing import cast

import torch
from torch import Tensor, nn

from lit_distill.models.shuffle import ChannelShuffle
from lit_distill.models.staged import StagedNetwork

STEM = 24
WIDTHS = (240, 480, 960)
BLOCKS = (4, 8, 4)
GROUPS = 3


class ShuffleBlock(nn.Module):
    """Grouped 1x1, shuffle, depthwise 3x3, grouped 1x1; the last ReLU comes after the shortcut joins.

    With stride 1 the shortcut is added, with stride 2 it is pooled and concatenated.

    Args:
        in_channels: Channels in.
        channels: Channels out, those of the shortcut included.
        stride: 1 or 2.
        groups: Groups of the first 1x1 convolution.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, groups: int) -> None:
        super().__init__()
        made = channels - in_channels if stride == 2 else channels
        inner = made // 4
        self.conv1 = nn.Conv2d(in_channels, inner, 1, groups=groups, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.relu1 = nn.ReLU()
        self.shuffle1 = ChannelShuffle(groups)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(inner, made, 1, groups=GROUPS, bias=False)
        self.bn3 = nn.BatchNorm2d(made)
        self.shortcut = nn.AvgPool2d(3, stride=2, padding=1) if stride == 2 else None
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` to ``(B, channels, H / stride, W / stride)``."""
        out = self.shuffle1(self.relu1(self.bn1(self.conv1(x))))
        out = self.bn3(self.conv3(self.relu2(self.bn2(self.conv2(out)))))
        joined = out + x if self.shortcut is None else torch.cat([out, self.shortcut(x)], dim=1)
        return cast(Tensor, self.relu3(joined))


class CifarShuffleNetV1(StagedNetwork):
    """ShuffleNet with three groups for 32x32 images: a 1x1 stem at full resolution, three stages.

    Stages: ``layer1``, ``layer2``, ``layer3``; before the activation, the input of each stage's last ReLU.
    Parameters are named as in the authors' code, so checkpoints from there load.

    Zhang et al., *ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices*, CVPR
    2018, https://arxiv.org/abs/1707.01083. Code: ``HobbitLong/RepDistiller:models/ShuffleNetv1.py``. The
    pooling here adapts to the size of the image; at 32x32 it is theirs.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the images.
    """

    stem_path = "relu"
    classifier_path = "linear"

    def __init__(self, num_classes: int = 100, in_channels: int = 3) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.conv1 = nn.Conv2d(in_channels, STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.relu = nn.ReLU()
        # The stem's 24 channels are too few to split: its 1x1 convolution has one group.
        self.layer1 = _stage(STEM, WIDTHS[0], BLOCKS[0], first_groups=1)
        self.layer2 = _stage(WIDTHS[0], WIDTHS[1], BLOCKS[1], first_groups=GROUPS)
        self.layer3 = _stage(WIDTHS[1], WIDTHS[2], BLOCKS[2], first_groups=GROUPS)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(WIDTHS[2], num_classes)

    def stages(self, pre_activation: bool = False) -> tuple[str, ...]:
        """Paths of the three stages; see :meth:`StagedNetwork.stages`."""
        if pre_activation:
            return tuple(f"layer{i}.{n - 1}.relu3:input" for i, n in enumerate(BLOCKS, start=1))
        return "layer1", "layer2", "layer3"

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(B, in_channels, H, W)`` to logits ``(B, num_classes)``."""
        self.check_images(x, self.in_channels)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return cast(Tensor, self.linear(self.flatten(self.avgpool(x))))


def _stage(in_channels: int, channels: int, blocks: int, first_groups: int) -> nn.Sequential:
    later = (ShuffleBlock(channels, channels, 1, GROUPS) for _ in range(blocks - 1))
    return nn.Sequential(ShuffleBlock(in_channels, channels, 2, first_groups), *later)


def shufflenet_v1(num_classes: int = 100, in_channels: int = 3) -> CifarShuffleNetV1:
    """ShuffleNet with three groups: 0.95 M parameters.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the images.
    """
    return CifarShuffleNetV1(num_classes, in_channels)
