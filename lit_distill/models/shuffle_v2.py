"""ShuffleNetV2 for small images."""

from typing import cast

import torch
from torch import Tensor, nn

from lit_distill.models.shuffle import ChannelShuffle
from lit_distill.models.staged import StagedNetwork

STEM = 24
WIDTHS = (116, 232, 464)
BLOCKS = (3, 7, 3)  # after the block that halves the image
PENULTIMATE = 1024


class SplitBlock(nn.Module):
    """Half of the channels pass untouched, half through 1x1, depthwise 3x3, 1x1; then both are shuffled.

    Args:
        channels: Channels in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.shuffle = ChannelShuffle(2)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """``(B, channels, H, W)``, not negative, to the same shape."""
        kept, changed = x.chunk(2, dim=1)
        changed = self.relu1(self.bn1(self.conv1(changed)))
        changed = self.bn3(self.conv3(self.bn2(self.conv2(changed))))
        # The kept half is rectified already, so one ReLU over both halves changes nothing in it. It gives the
        # block one module whose input is its pre-activation, with channels in the order of its output.
        return cast(Tensor, self.relu2(self.shuffle(torch.cat([kept, changed], dim=1))))


class DownBlock(nn.Module):
    """Two branches that both halve the image, concatenated and shuffled.

    Args:
        in_channels: Channels in.
        channels: Channels out.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(in_channels, in_channels, 3, stride=2, padding=1, groups=in_channels, bias=False)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv2 = nn.Conv2d(in_channels, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(in_channels, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.relu1 = nn.ReLU()
        self.conv4 = nn.Conv2d(half, half, 3, stride=2, padding=1, groups=half, bias=False)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = nn.Conv2d(half, half, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(half)
        self.shuffle = ChannelShuffle(2)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` to ``(B, channels, H / 2, W / 2)``."""
        left = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        right = self.bn4(self.conv4(self.relu1(self.bn3(self.conv3(x)))))
        right = self.bn5(self.conv5(right))
        return cast(Tensor, self.relu2(self.shuffle(torch.cat([left, right], dim=1))))


class CifarShuffleNetV2(StagedNetwork):
    """ShuffleNetV2 at full width for 32x32 images: a 1x1 stem at full resolution, three stages.

    Stages: ``layer1``, ``layer2``, ``layer3``; before the activation, the input of each stage's last ReLU.
    Half of its channels passed the block untouched and are rectified already. The authors' code gives this
    tensor before the channel shuffle; here its channels are in the order of the stage's output. The
    classifier sees 1024 channels of a last 1x1 convolution that is no stage. Parameters are named as there,
    so checkpoints from there load.

    Ma et al., *ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design*, ECCV 2018,
    https://arxiv.org/abs/1807.11164. Code: ``HobbitLong/RepDistiller:models/ShuffleNetv2.py``. The pooling
    here adapts to the size of the image; at 32x32 it is theirs.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the images.
    """

    stem_path = "relu1"
    classifier_path = "linear"

    def __init__(self, num_classes: int = 100, in_channels: int = 3) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.conv1 = nn.Conv2d(in_channels, STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.relu1 = nn.ReLU()
        self.layer1 = _stage(STEM, WIDTHS[0], BLOCKS[0])
        self.layer2 = _stage(WIDTHS[0], WIDTHS[1], BLOCKS[1])
        self.layer3 = _stage(WIDTHS[1], WIDTHS[2], BLOCKS[2])
        self.conv2 = nn.Conv2d(WIDTHS[2], PENULTIMATE, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(PENULTIMATE)
        self.relu2 = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(PENULTIMATE, num_classes)

    def stages(self, pre_activation: bool = False) -> tuple[str, ...]:
        """Paths of the three stages; see :meth:`StagedNetwork.stages`."""
        if pre_activation:
            return tuple(f"layer{i}.{n}.relu2:input" for i, n in enumerate(BLOCKS, start=1))
        return "layer1", "layer2", "layer3"

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(B, in_channels, H, W)`` to logits ``(B, num_classes)``."""
        self.check_images(x, self.in_channels)
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = self.relu2(self.bn2(self.conv2(x)))
        return cast(Tensor, self.linear(self.flatten(self.avgpool(x))))


def _stage(in_channels: int, channels: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(DownBlock(in_channels, channels), *(SplitBlock(channels) for _ in range(blocks)))


def shufflenet_v2(num_classes: int = 100, in_channels: int = 3) -> CifarShuffleNetV2:
    """ShuffleNetV2 at full width: 1.36 M parameters.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the images.
    """
    return CifarShuffleNetV2(num_classes, in_channels)
