"""Small segmenters and detectors of torchvision's parts, on the pyramid of a small network's stages."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.fcos import FCOS, FCOSHead
from torchvision.models.segmentation.fcn import FCN, FCNHead
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from lit_distill.errors import InputError

STAGE = re.compile(r"layer\d+|stage\d+|\d+")
SIDE = 64  # of the image that tells the stages' strides


def segmenter(backbone: nn.Module, num_classes: int, channels: int = 64, strides: Sequence[int] = (4, 8, 16)) -> FCN:
    """A fully convolutional network on the finest level of a feature pyramid.

    torchvision's ``FCN``: it answers with a dict that has logits of the image's size under ``out``. The finest level is
    ``backbone.fpn.layer_blocks.0``, the map of logits before it is enlarged ``classifier``.

    Args:
        backbone: A network whose stages are its children one after the other: ResNets of torchvision, timm and this
            library, and ``ConvNet``. What comes after the last stage is left out.
        num_classes: The number of classes, the background among them.
        channels: Channels of every level.
        strides: How many pixels of the image a step on each level is, from fine to coarse.

    Raises:
        InputError: When nothing is known about the stages of the network, or none has one of the strides.

    Example:
        >>> from lit_distill.models import ConvNet
        >>> network = segmenter(ConvNet(width=8, depth=4), num_classes=5, channels=16)
        >>> network(torch.zeros(2, 3, 32, 32))["out"].shape
        torch.Size([2, 5, 32, 32])
    """
    names = ["out", *(str(level) for level in range(1, len(strides)))]
    body = pyramid(backbone, channels, strides, names)
    for level in range(1, len(strides)):
        body.fpn.layer_blocks[level] = nn.Identity()  # nothing would train it, which DDP refuses
    return FCN(body, FCNHead(channels, num_classes))


def detector(
    backbone: nn.Module,
    num_classes: int,
    image_size: int,
    channels: int = 64,
    strides: Sequence[int] = (4, 8, 16),
    convs: int = 2,
) -> FCOS:
    """A one-stage detector without anchors on a feature pyramid: torchvision's ``FCOS``.

    Tian et al., FCOS: Fully Convolutional One-Stage Object Detection, ICCV 2019, https://arxiv.org/abs/1904.01355. It
    takes images in [0, 1] and normalises them itself. Its levels are called ``backbone.fpn.layer_blocks.0`` (the
    finest), ``.1``, ...

    Args:
        backbone: A network whose stages are its children one after the other: ResNets of torchvision, timm and this
            library, and ``ConvNet``. What comes after the last stage is left out.
        num_classes: The number of classes, the background (class 0) among them.
        image_size: Height and width to which images are resized, of the shorter side at least.
        channels: Channels of every level and of the head; a multiple of 32.
        strides: How many pixels of the image a step on each level is, from fine to coarse.
        convs: Convolutions of each branch of the head, before the last.

    Raises:
        InputError: When nothing is known about the stages of the network, none has one of the strides, or ``channels``
            is no multiple of 32.

    Example:
        >>> from lit_distill.models import ConvNet
        >>> network = detector(ConvNet(width=8, depth=4), num_classes=5, image_size=32, channels=32).eval()
        >>> sorted(network(torch.zeros(2, 3, 32, 32))[0])
        ['boxes', 'labels', 'scores']
    """
    if channels % 32:  # the head's normalisation has 32 groups
        raise InputError(f"channels: {channels} is no multiple of 32")
    body = pyramid(backbone, channels, strides, [str(level) for level in range(len(strides))])
    return FCOS(
        body,
        num_classes,
        min_size=image_size,
        max_size=2 * image_size,
        anchor_generator=AnchorGenerator(tuple((stride,) for stride in strides), ((1.0,),) * len(strides)),
        head=FCOSHead(channels, 1, num_classes, convs),
    )


def pyramid(backbone: nn.Module, channels: int, strides: Sequence[int], names: Sequence[str]) -> BackboneWithFPN:
    """A network up to its last stage that counts, and a feature pyramid on the stages with these strides.

    Args:
        backbone: The network.
        channels: Channels of every level.
        strides: Strides of the levels.
        names: What the levels are called in the dict that it answers with.

    Raises:
        InputError: When nothing is known about the stages of the network, or none has one of the strides.
    """
    body = getattr(backbone, "blocks", backbone)
    stages = [name for name, _ in body.named_children() if STAGE.fullmatch(name)]
    if not stages:
        raise InputError(
            f"backbone: nothing is known about the stages of {type(backbone).__name__}; accepted are ResNets of "
            "torchvision, timm and this library, and ConvNet"
        )
    training = body.training
    getter = IntermediateLayerGetter(body, {stage: stage for stage in stages}).eval()
    with torch.no_grad():
        maps = getter(torch.zeros(1, 3, SIDE, SIDE))
    found = {SIDE // x.shape[-1]: (stage, x.shape[1]) for stage, x in maps.items()}  # of equal ones the last
    body.train(training)
    if missing := [stride for stride in strides if stride not in found]:
        raise InputError(f"strides: {type(backbone).__name__} has no stage of stride {missing[0]}; it has {[*found]}")
    levels = [found[stride] for stride in strides]
    return BackboneWithFPN(
        body,
        {stage: name for (stage, _), name in zip(levels, names, strict=True)},
        [width for _, width in levels],
        channels,
        extra_blocks=NoMoreLevels(),
    )


class NoMoreLevels(ExtraFPNBlock):
    """Leaves a pyramid as it is, to which torchvision would add a level."""

    def forward(self, results: list[Tensor], x: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        """The levels and their names.

        Args:
            results: The levels.
            x: The stages that they are made of.
            names: Their names.
        """
        return results, names
