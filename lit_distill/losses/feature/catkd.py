"""Class attention transfer: where in the image each class is seen."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses.base import FeatureLoss
from lit_distill.losses.checks import require
from lit_distill.losses.classifier import classifier_of, whole
from lit_distill.losses.directions import unit
from lit_distill.losses.precision import fp32
from lit_distill.losses.views import as_map


@fp32
def class_activation_maps(feature: Tensor, weight: Tensor) -> Tensor:
    """What a classifier says about each position of a map, without its bias.

    Args:
        feature: The map whose mean the classifier takes, ``(B, D, H, W)``.
        weight: Weight of the classifier, ``(C, D)``.

    Returns:
        One map a class, ``(B, C, H, W)``; its mean is the logit without its bias.

    Example:
        >>> import torch
        >>> class_activation_maps(torch.ones(2, 3, 4, 4), torch.ones(10, 3)).shape
        torch.Size([2, 10, 4, 4])
    """
    # no convolution, which CUDA rounds to TF32 by default
    return F.linear(feature.movedim(1, -1), weight).movedim(-1, 1)


@fp32
def catkd(student: Tensor, teacher: Tensor, resolution: int = 2, normalise: bool = True) -> Tensor:
    r"""Mean squared difference of two sets of class activation maps; the formula stands in :class:`CATKD`.

    Args:
        student: Class activation maps of the student, ``(B, C, H_s, W_s)``.
        teacher: Class activation maps of the teacher, ``(B, C, H_t, W_t)``.
        resolution: Height and width that both are averaged to.
        normalise: Whether each map is divided by its norm.

    Returns:
        A scalar.

    Raises:
        InputError: If they are not maps of the same samples and classes.

    Example:
        >>> import torch
        >>> x = torch.rand(2, 10, 4, 4)
        >>> round(catkd(2 * x, x).item(), 4), round(catkd(x + 3, x, normalise=False).item(), 4)
        (0.0, 9.0)
    """
    require(
        student.dim() == teacher.dim() == 4 and student.shape[:2] == teacher.shape[:2],
        "student and teacher class activation maps",
        f"{tuple(student.shape)} and {tuple(teacher.shape)}",
        "maps (B, C, H, W) of the same samples and classes",
    )
    s, t = (F.adaptive_avg_pool2d(x, resolution).flatten(2) for x in (student, teacher))
    return F.mse_loss(unit(s, dim=2), unit(t, dim=2)) if normalise else F.mse_loss(s, t)


class CATKD(FeatureLoss):
    r"""The student sees each class at the places of the image where the teacher does (CAT-KD).

    Paper: Guo, Yan, Li, Lin, Class Attention Transfer Based Knowledge Distillation, CVPR 2023,
        https://arxiv.org/abs/2304.12777

    .. math:: \mathrm{mean} \big( (A^s - A^t)^2 \big), \qquad A_{bc} = \frac{a_{bc}}{\| a_{bc} \|}, \quad
        a_{bcij} = \mathrm{mean}_{(h, w) \in \text{cell } ij} \sum_d W_{cd} \, f_{bdhw}

    The class activation maps come from each network's own last map f and classifier W, which makes them before the
    mean over positions instead of after it: the logits are the same. They are averaged to a few cells and, unless
    ``normalise`` is false, each has norm 1. The student's classifier learns from this term too.

    On CIFAR-100 the authors have, beside cross entropy with weight 1, weight 15 without the norm for ResNet-32x4 to
    ResNet-8x4, and 600 with it and a resolution of 4 for ShuffleNetV1; without cross entropy 50 with the norm (CAT).

    Args:
        resolution: Cells along each side; the authors take 2, and 4 for ShuffleNets and on ImageNet.
        normalise: Whether the maps of a class are compared up to their scale.
        student_classifier: Path of the student's classifier. Default: found.
        teacher_classifier: Path of the teacher's classifier. Default: found.
        layers: Path of the student's last map, and of the teacher's: what its classifier sees the mean of. Default:
            the last stage of each network.

    Shape:
        Maps ``(B, D, H, W)`` or tokens ``(B, N, D)`` without their prefix, of any size in each network; output a
        scalar.

    Raises:
        InputError: If ``resolution`` is not positive, ``layers`` is not one pair, a network has no linear classifier
            or one that does not fit its map, the networks know different numbers of classes, or the loss is called
            before :meth:`attach`.

    Traps:
        - Between the last map and the classifier there may be nothing but a mean: a ReLU, a norm or a hidden layer
          there would be left out.
        - Convolutions between the last stage and the pooling (MobileNetV2, ShuffleNetV2) change the channels: name the
          map that is pooled, ``avgpool:input``.
        - The classifier's bias is left out, as it has no place; the authors' networks have none.
        - A resolution finer than the map counts positions several times.

    Code: ``GzyAftermath/CAT-KD:mdistiller/distillers/CAT_KD.py``, equal to this. There networks are rebuilt with a 1x1
        convolution as classifier, which is not needed.

    Example:
        >>> import torch
        >>> outputs = Outputs(torch.zeros(2, 10), {"map": torch.randn(2, 8, 4, 4)})
        >>> loss, network = CATKD(layers={"map": "map"}), nn.Linear(8, 10)
        >>> loss.attach(network, network)
        >>> loss(outputs, outputs, torch.tensor([3, 7])).item()
        0.0
    """

    default_view = "last"

    def __init__(
        self,
        resolution: int = 2,
        normalise: bool = True,
        student_classifier: str | None = None,
        teacher_classifier: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        require(resolution > 0, "resolution", resolution, "positive")
        require(len(self.layers) <= 1, "layers", self.layers, "one pair {student path: teacher path}")
        self.resolution = resolution
        self.normalise = normalise
        self.student_classifier = student_classifier
        self.teacher_classifier = teacher_classifier
        # in a tuple: the networks' layers are no part of this term
        self.classifiers: tuple[nn.Linear, ...] = ()

    def attach(self, student: nn.Module, teacher: nn.Module) -> None:
        """Find both classifiers.

        Args:
            student: The student itself.
            teacher: The whole teacher.
        """
        self.classifiers = (
            classifier_of(student, self.student_classifier, "student_classifier"),
            classifier_of(teacher, self.teacher_classifier, "teacher_classifier", member=self.teacher),
        )

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Difference of the class activation maps."""
        if not self.classifiers:
            raise InputError("CATKD must meet the two networks before it is called, got no attach()")
        (pair,), (paths,) = self.pairs(student, teacher), self.layers.items()
        maps = []
        for path, feature, classifier in zip(paths, map(as_map, pair), self.classifiers, strict=True):
            wide = classifier.in_features
            accepted = f"a map (B, {wide}, H, W), as the classifier takes it"
            require(feature.shape[1] == wide, "layers", f"{path} {tuple(feature.shape)}", accepted)
            # averaged first, which is the same and takes less where there are many classes
            cells = F.adaptive_avg_pool2d(feature, self.resolution)
            maps.append(class_activation_maps(cells, whole(classifier.weight)))
        return catkd(maps[0], maps[1], self.resolution, self.normalise)
