"""A student that answers with its teacher's classifier."""

import copy
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from lit_distill.core.taps import Taps
from lit_distill.errors import InputError
from lit_distill.models.last_map import last_map


class ReusedClassifier(nn.Module):
    """A network, a projector to its teacher's last map, and the teacher's classifier: the student of ``SimKD``.

    Chen et al., *Knowledge Distillation with the Reused Teacher Classifier*, CVPR 2022,
    https://arxiv.org/abs/2203.14001. Code: ``DefangChen/SimKD:models/util.py``.

    The network's own classifier is taken off. Its last map, averaged to the size of the teacher's where it is larger,
    passes a bottleneck of convolutions of size 1, 3 and 1, each with BatchNorm and ReLU, whose output is tapped at
    ``projector``; the mean over positions goes to the classifier, which does not train. Being a network as a whole, it
    is saved, exported and restored with everything that an answer takes, and without the teacher.

    >>> import torch
    >>> from lit_distill.models import ConvNet, resnet8
    >>> student = ReusedClassifier(ConvNet(depth=2), resnet8(num_classes=10), input_shape=(3, 8, 8))
    >>> student(torch.zeros(2, 3, 8, 8)).shape
    torch.Size([2, 10])

    Args:
        network: The network; its classifier is replaced by an identity.
        teacher: The teacher, or a network of its kind, whose classifier is copied. Its weights do not matter for a
            training with ``SimKD``, which copies those of the teacher that it learns from.
        input_shape: Shape of one input without the batch axis, for the dry runs that tell what is connected.
        factor: Channels of the teacher's map over those within the projector.

    Attributes:
        teacher_layer: Path of the module of the teacher that gives the map to be learnt.

    Raises:
        InputError: When ``factor`` is not between 1 and the teacher's channels, a network does not take such inputs,
            has no linear classifier, or one that sees something else than the mean of a map.
    """

    classifier_path = "classifier"

    def __init__(self, network: nn.Module, teacher: nn.Module, input_shape: tuple[int, ...], factor: int = 2) -> None:
        # deferred: the losses import the models
        from lit_distill.losses.classifier import classifier_of

        super().__init__()
        own, reused = classifier_of(network, None, "network"), classifier_of(teacher, None, "teacher")
        self.layer, learnt = last_map(network, own, tuple(input_shape))
        self.teacher_layer, taught = last_map(teacher, reused, tuple(input_shape))
        if not 1 <= factor <= taught[1]:
            raise InputError(f"factor must be from 1 to the teacher's {taught[1]} channels, not {factor}")
        network.set_submodule(next(name for name, module in network.named_modules() if module is own), nn.Identity())
        self.network = network
        self.taps = Taps(network, [self.layer], "network")
        self.size = (min(learnt[2], taught[2]), min(learnt[3], taught[3]))
        self.projector = bottleneck(learnt[1], taught[1], factor)
        self.classifier = copy.deepcopy(reused).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Inputs ``(B, ...)`` to logits ``(B, C)``."""
        self.network(x)
        feature = self.taps.pop()[self.layer]
        if feature.shape[2:] != self.size:
            feature = F.adaptive_avg_pool2d(feature, self.size)
        return cast(Tensor, self.classifier(self.projector(feature).mean((2, 3))))


def bottleneck(channels: int, teacher_channels: int, factor: int = 2) -> nn.Sequential:
    """Convolutions of size 1, 3 and 1, each with BatchNorm and ReLU.

    Args:
        channels: Channels in.
        teacher_channels: Channels out.
        factor: Channels out over those between.
    """
    middle = teacher_channels // factor
    layers: list[nn.Module] = []
    for wide_in, wide_out, size in ((channels, middle, 1), (middle, middle, 3), (middle, teacher_channels, 1)):
        convolution = nn.Conv2d(wide_in, wide_out, size, padding=size // 2, bias=False)
        layers += [convolution, nn.BatchNorm2d(wide_out), nn.ReLU()]
    return nn.Sequential(*layers)
