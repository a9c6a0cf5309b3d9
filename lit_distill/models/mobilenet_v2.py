"""MobileNetV2 for small images."""

from typing import cast

from torch import Tensor, nn

from lit_distill.models.staged import StagedNetwork, init_fan_out

# Channels at full width, number of blocks and first stride of each group.
GROUPS = ((16, 1, 1), (24, 2, 1), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))
PENULTIMATE = 1280


class InvertedResidual(nn.Module):
    """Widen, filter each channel alone, narrow; a shortcut where the shape stays, and no ReLU at the end.

    Args:
        in_channels: Channels in.
        channels: Channels out.
        stride: Step of the depthwise convolution.
        expansion: Factor of the channels in between.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        self.shortcut = stride == 1 and in_channels == channels
        inner = in_channels * expansion
        self.conv = nn.Sequential(
            nn.Conv2d(in_channels, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, inner, 3, stride=stride, padding=1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` to ``(B, channels, H / stride, W / stride)``."""
        out = self.conv(x)
        return cast(Tensor, x + out if self.shortcut else out)


class CifarMobileNetV2(StagedNetwork):
    """MobileNetV2 for 32x32 images: the ImageNet network with a stride less in its second group.

    Stages: ``blocks.1``, ``blocks.2``, ``blocks.4``, ``blocks.6``. Each ends in a linear bottleneck: there is
    no activation to come before, so ``stages(pre_activation=True)`` gives the same paths, as in the authors'
    code. The classifier sees 1280 channels of a last 1x1 convolution that is no stage. Parameters are named
    as there, so checkpoints from there load.

    Sandler et al., *MobileNetV2: Inverted Residuals and Linear Bottlenecks*, CVPR 2018,
    https://arxiv.org/abs/1801.04381. Code: ``HobbitLong/RepDistiller:models/mobilenetv2.py``. The pooling
    here adapts to the size of the image; at 32x32 it is theirs.

    Args:
        width: Factor of all channels but the last 1280.
        expansion: Factor of the channels inside a block, except in the first group, which does not widen.
        num_classes: Number of classes.
        in_channels: Channels of the images.
    """

    stem_path = "conv1"
    classifier_path = "classifier.0"

    def __init__(self, width: float = 0.5, expansion: int = 6, num_classes: int = 100, in_channels: int = 3) -> None:
        super().__init__()
        self.in_channels = in_channels
        channels = int(32 * width)
        self.conv1 = _conv(in_channels, channels, 3, stride=2)
        groups: list[nn.Module] = []
        for i, (full, count, first) in enumerate(GROUPS):
            blocks: list[nn.Module] = []
            for stride in [first] + [1] * (count - 1):
                blocks.append(InvertedResidual(channels, int(full * width), stride, expansion if i else 1))
                channels = int(full * width)
            groups.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*groups)
        last = int(PENULTIMATE * max(1.0, width))
        self.conv2 = _conv(channels, last, 1, stride=1)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        head = nn.Linear(last, num_classes)
        self.classifier = nn.Sequential(head)
        init_fan_out(self)
        nn.init.normal_(head.weight, std=0.01)
        nn.init.zeros_(head.bias)

    def stages(self, pre_activation: bool = False) -> tuple[str, ...]:
        """Paths of the four stages, which have no activation; see :meth:`StagedNetwork.stages`."""
        return "blocks.1", "blocks.2", "blocks.4", "blocks.6"

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(B, in_channels, H, W)`` to logits ``(B, num_classes)``."""
        self.check_images(x, self.in_channels)
        x = self.conv2(self.blocks(self.conv1(x)))
        return cast(Tensor, self.classifier(self.flatten(self.avgpool(x))))


def _conv(in_channels: int, channels: int, kernel: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, channels, kernel, stride=stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU())


def mobilenet_v2_half(num_classes: int = 100, in_channels: int = 3) -> CifarMobileNetV2:
    """MobileNetV2 at half width: 0.81 M parameters.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the images.
    """
    return CifarMobileNetV2(0.5, 6, num_classes, in_channels)
