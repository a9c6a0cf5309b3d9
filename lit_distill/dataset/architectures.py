"""The networks that distilled sets are tried on."""

from collections.abc import Callable
from functools import partial
from inspect import isfunction, signature

from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

import lit_distill.models
from lit_distill.errors import InputError
from lit_distill.models import MLP, CondensationConvNet, vgg11
from lit_distill.models.convnet import Norm, norm_layer

LARGE = 128  # from this side on images are as those of ImageNet
SMALL = 16  # below it the last maps are single pixels, of which an instance norm leaves nothing


def architecture(
    name: str, input_shape: tuple[int, int, int], num_classes: int, width: int = 128
) -> Callable[[], nn.Module]:
    """Builds the network that a name means.

    - ``convnet``: the network of dataset condensation; 3 blocks for images of up to 32 pixels, 4 up to 64, 5 beyond.
    - ``resnet18``, ``vgg11``: with an instance norm in the place of batch norm, as the field has them: batch norms
      hardly work after so few images. For images below 16 pixels a group norm.
    - ``resnet18_bn``, ``vgg11_bn``: as they were published.
    - ``mlp``, and any function of ``lit_distill.models`` that takes ``num_classes`` and ``in_channels``.

    Args:
        name: Which one.
        input_shape: Channels, height and width of an image.
        num_classes: Number of classes.
        width: Channels of ``convnet``.

    Raises:
        InputError: When no network has that name.

    Example:
        >>> type(architecture("convnet", (1, 28, 28), 10, width=32)()).__name__
        'CondensationConvNet'
    """
    channels, side = input_shape[0], min(input_shape[1:])
    norm: Norm = "instance" if side >= SMALL else "group"
    known: dict[str, Callable[[], nn.Module]] = {
        "convnet": partial(CondensationConvNet, input_shape, num_classes, width, depth_for(side)),
        "mlp": partial(MLP, input_shape, num_classes),
        "resnet18": partial(resnet18, num_classes, channels, norm, side >= LARGE),
        "resnet18_bn": partial(resnet18, num_classes, channels, "batch", side >= LARGE),
        "vgg11": partial(_vgg11, num_classes, channels, norm),
        "vgg11_bn": partial(vgg11, num_classes, channels),
    }
    ours = {n: f for n, f in vars(lit_distill.models).items() if isfunction(f) and _takes_classes(f)}
    if name in known:
        return known[name]
    if name in ours:
        return partial(ours[name], num_classes=num_classes, in_channels=channels)
    accepted = ", ".join([*known, *sorted(ours.keys() - known.keys())])
    raise InputError(f"models: {name!r} is no network; accepted are {accepted}")


def depth_for(side: int) -> int:
    """Blocks of the ConvNet for images of this size.

    Args:
        side: The smaller of height and width.
    """
    return 3 if side <= 32 else 4 if side <= 64 else 5


def resnet18(num_classes: int, in_channels: int, norm: Norm, large: bool) -> nn.Module:
    """ResNet-18; for small images with a 3x3 stem and no pooling after it.

    He et al., Deep Residual Learning for Image Recognition, CVPR 2016, https://arxiv.org/abs/1512.03385

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the images.
        norm: What comes after convolutions.
        large: Whether the images are large.
    """
    network = ResNet(BasicBlock, [2, 2, 2, 2], num_classes, norm_layer=partial(norm_layer, norm))
    if large:
        network.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
    else:
        network.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        network.maxpool = nn.Identity()
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    return network


def _vgg11(num_classes: int, in_channels: int, norm: Norm) -> nn.Module:
    network = vgg11(num_classes, in_channels)
    for group in network.modules():
        for name, layer in group.named_children():
            if isinstance(layer, nn.BatchNorm2d):
                setattr(group, name, norm_layer(norm, layer.num_features))
    return network


def _takes_classes(function: Callable[..., object]) -> bool:
    return list(signature(function).parameters) == ["num_classes", "in_channels"]
