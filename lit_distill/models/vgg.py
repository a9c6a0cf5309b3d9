"""VGG for small images, with batch normalisation and one linear layer."""

from typing import cast

from torch import Tensor, nn

from lit_distill.errors import InputError
from lit_distill.models.staged import StagedNetwork, init_fan_out

WIDTHS = (64, 128, 256, 512, 512)
SMALLEST = 8  # three poolings halve the image before the last two groups


class CifarVGG(StagedNetwork):
    """VGG for 32x32 images: five groups of 3x3 convolutions.

    Stages: ``relu1`` to ``relu4``; before the activation, the input of the same ReLU. The first group is the
    stem, ``relu0``. Images of 64 pixels or more are pooled once more before the last group. Parameters are
    named as in the authors' code, so checkpoints from there load.

    Simonyan and Zisserman, *Very Deep Convolutional Networks for Large-Scale Image Recognition*, ICLR 2015,
    https://arxiv.org/abs/1409.1556. Code: ``HobbitLong/RepDistiller:models/vgg.py`` (the ``_bn`` networks).

    Args:
        convolutions: Number of convolutions of each of the five groups.
        num_classes: Number of classes.
        in_channels: Channels of the images.

    Raises:
        InputError: A group is empty; images smaller than 8x8.
    """

    stem_path = "relu0"
    classifier_path = "classifier"

    def __init__(
        self, convolutions: tuple[int, int, int, int, int], num_classes: int = 100, in_channels: int = 3
    ) -> None:
        super().__init__()
        if len(convolutions) != 5 or min(convolutions) < 1:
            raise InputError(f"convolutions must be five positive numbers, not {convolutions}")
        self.in_channels = in_channels
        self.block0 = _group(in_channels, WIDTHS[0], convolutions[0])
        self.relu0 = nn.ReLU()
        self.pool0 = nn.MaxPool2d(2)
        self.block1 = _group(WIDTHS[0], WIDTHS[1], convolutions[1])
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.block2 = _group(WIDTHS[1], WIDTHS[2], convolutions[2])
        self.relu2 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(2)
        self.block3 = _group(WIDTHS[2], WIDTHS[3], convolutions[3])
        self.relu3 = nn.ReLU()
        self.pool3 = nn.MaxPool2d(2)
        self.block4 = _group(WIDTHS[3], WIDTHS[4], convolutions[4])
        self.relu4 = nn.ReLU()
        self.pool4 = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(WIDTHS[4], num_classes)
        init_fan_out(self)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def stages(self, pre_activation: bool = False) -> tuple[str, ...]:
        """Paths of the four stages; see :meth:`StagedNetwork.stages`."""
        return tuple(f"relu{i}{':input' if pre_activation else ''}" for i in (1, 2, 3, 4))

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(B, in_channels, H, W)`` to logits ``(B, num_classes)``."""
        self.check_images(x, self.in_channels, smallest=SMALLEST)
        large = x.shape[2] >= 64
        x = self.pool0(self.relu0(self.block0(x)))
        x = self.pool1(self.relu1(self.block1(x)))
        x = self.pool2(self.relu2(self.block2(x)))
        x = self.relu3(self.block3(x))
        x = self.relu4(self.block4(self.pool3(x) if large else x))
        return cast(Tensor, self.classifier(self.flatten(self.pool4(x))))


def _group(in_channels: int, channels: int, convolutions: int) -> nn.Sequential:
    """Convolution and norm, ReLUs between them but none at the end: that one is a stage's own module."""
    layers: list[nn.Module] = [nn.Conv2d(in_channels, channels, 3, padding=1), nn.BatchNorm2d(channels)]
    for _ in range(convolutions - 1):
        layers += [nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)]
    return nn.Sequential(*layers)


def vgg8(num_classes: int = 100, in_channels: int = 3) -> CifarVGG:
    """VGG-8 with batch normalisation: 3.97 M parameters.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the images.
    """
    return CifarVGG((1, 1, 1, 1, 1), num_classes, in_channels)


def vgg11(num_classes: int = 100, in_channels: int = 3) -> CifarVGG:
    """VGG-11 with batch normalisation: 9.28 M parameters.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the images.
    """
    return CifarVGG((1, 1, 2, 2, 2), num_classes, in_channels)


def vgg13(num_classes: int = 100, in_channels: int = 3) -> CifarVGG:
    """VGG-13 with batch normalisation: 9.46 M parameters.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the images.
    """
    return CifarVGG((2, 2, 2, 2, 2), num_classes, in_channels)


def vgg16(num_classes: int = 100, in_channels: int = 3) -> CifarVGG:
    """VGG-16 with batch normalisation: 14.77 M parameters.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the images.
    """
    return CifarVGG((2, 2, 3, 3, 3), num_classes, in_channels)


def vgg19(num_classes: int = 100, in_channels: int = 3) -> CifarVGG:
    """VGG-19 with batch normalisation: 20.09 M parameters.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the images.
    """
    return CifarVGG((2, 2, 4, 4, 4), num_classes, in_channels)
