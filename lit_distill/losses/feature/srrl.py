"""Softmax regression representation learning: the teacher's classifier reads the student's feature."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.core.projectors import ConvProjector
from lit_distill.errors import InputError
from lit_distill.losses.base import FeatureLoss
from lit_distill.losses.checks import check_same_shape, require
from lit_distill.losses.classifier import classifier_of, whole
from lit_distill.losses.layer_pairs import layer_pairs
from lit_distill.losses.precision import fp32
from lit_distill.losses.views import as_map, pooled


@fp32
def srrl(
    student: Tensor, teacher: Tensor, read: Tensor, teacher_logits: Tensor, regression_weight: float = 1.0
) -> Tensor:
    r"""Mean squared difference of two features, and of what one classifier makes of them.

    .. math:: \mathrm{mean} \big( (h^s - h^t)^2 \big) + w \, \mathrm{mean} \big( (W h^s + b - z^t)^2 \big)

    Args:
        student: Feature of the student behind the connector, ``(B, D)``.
        teacher: Feature of the teacher, ``(B, D)``.
        read: Logits that the teacher's classifier gives for the student's feature, ``(B, C)``.
        teacher_logits: Logits of the teacher, ``(B, C)``.
        regression_weight: Factor of the second difference.

    Returns:
        A scalar.

    Raises:
        InputError: If the shapes of the features or of the logits differ.

    Example:
        >>> import torch
        >>> srrl(torch.ones(2, 3), torch.zeros(2, 3), 2 * torch.ones(2, 5), torch.zeros(2, 5), regression_weight=10.0)
        tensor(41.)
    """
    check_same_shape(student, teacher, "features")
    check_same_shape(read, teacher_logits, "logits")
    return F.mse_loss(student, teacher) + regression_weight * F.mse_loss(read, teacher_logits)


class SRRL(FeatureLoss):
    r"""The student's last feature equals the teacher's, and means the same to the teacher's classifier.

    Paper: Yang, Martinez, Bulat, Tzimiropoulos, Knowledge distillation via softmax regression representation learning,
        ICLR 2021, https://openreview.net/forum?id=ZzwDy_wiWv

    .. math:: \mathrm{mean} \big( (h^s - h^t)^2 \big) + w \, \mathrm{mean} \big( (W h^s + b - z^t)^2 \big), \qquad
        h^s = \mathrm{mean}_{hw} \, \mathrm{ReLU}(\mathrm{BN}(\mathrm{conv}(f^s)))

    with the teacher's feature :math:`h^t`, logits :math:`z^t` and classifier W, b. The connector is trained with the
    student and dropped after; the classifier is frozen, but gradients pass through it. The authors have weight 1 and
    w = 1 beside cross entropy with weight 1.

    Args:
        regression_weight: Factor w of the difference of the logits.
        classifier: Path of the teacher's classifier, a linear layer. Default: found.
        layers: Path of the student's last map, and of what the teacher's classifier sees: a vector, or a map or tokens
            of which it sees the mean. Default: the student's last stage, and the input of the teacher's classifier.

    Shape:
        Map of the student ``(B, D_s, H, W)``, tokens ``(B, N, D_s)`` without their prefix, or vectors ``(B, D_s)``;
        feature of the teacher ``(B, D_t)``, or a map or tokens; logits of the teacher ``(B, C)``. Output a scalar.

    Raises:
        InputError: If ``regression_weight`` is negative, ``layers`` is not one pair, the teacher has no linear
            classifier or one that does not fit its feature, or the loss is called before :meth:`attach` and
            :meth:`build`.

    Traps:
        - Convolutions between the student's last stage and its pooling (MobileNetV2, ShuffleNetV2) learn nothing from
          the default layer: name the map that is pooled, ``avgpool:input``.
        - Behind a ReLU the connector reaches no negative feature, as that of a transformer is.
        - The student's own classifier learns from other terms alone.

    Code: ``jingyang2017/KD_SRRL:distiller_zoo/AIN.py`` and ``train_imagenet_distillation.py``, equal to this.
        ``DefangChen/SimKD`` pools before the connector; ``yzd-v/cls_KD`` has w = 5.

    Example:
        >>> import torch
        >>> student = Outputs(torch.zeros(2, 10), {"map": torch.randn(2, 3, 4, 4)})
        >>> teacher = Outputs(torch.zeros(2, 10), {"vector": torch.randn(2, 5)})
        >>> loss = SRRL(layers={"map": "vector"})
        >>> loss.attach(nn.Identity(), nn.Linear(5, 10))
        >>> loss.build(student, teacher)
        >>> loss(student, teacher, torch.tensor([0, 3])).shape
        torch.Size([])
    """

    def __init__(self, regression_weight: float = 1.0, classifier: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require(regression_weight >= 0, "regression_weight", regression_weight, "0 or positive")
        require(len(self.layers) <= 1, "layers", self.layers, "one pair {student path: teacher path}")
        self.regression_weight = regression_weight
        self.classifier_path = classifier
        # in a tuple: the teacher's layer is no part of this term
        self.classifier: tuple[nn.Linear, ...] = ()
        self.connector = ConvProjector(kernel_size=1)

    def choose_layers(self, student: nn.Module, teacher: nn.Module) -> None:
        """Take the student's last stage and what the teacher's classifier sees, if no layers were given.

        Args:
            student: The student itself.
            teacher: The whole teacher, frozen.
        """
        self.layers = self.layers or layer_pairs(student, teacher, "last", "pooled", self.teacher)

    def attach(self, student: nn.Module, teacher: nn.Module) -> None:
        """Find the teacher's classifier.

        Args:
            student: Not asked.
            teacher: The whole teacher.
        """
        self.classifier = (classifier_of(teacher, self.classifier_path, "classifier", member=self.teacher),)

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Create the connector, on the device of the student's map.

        Args:
            student: What the student said about the example batch.
            teacher: What the teacher said about it.
        """
        if not self.classifier:
            raise InputError("SRRL must meet the two networks before it is built, got no attach()")
        ((s, t),) = self.pairs(student, teacher)
        wide, (path,) = self.classifier[0].in_features, self.layers.values()
        feature = pooled(t)
        require(feature.shape[1] == wide, "layers", f"{path} {tuple(t.shape)}", f"what a classifier of {wide} takes")
        self.connector.build(as_map(s), as_map(feature))

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Differences of the features and of what the teacher's classifier makes of them."""
        if isinstance(self.connector.net, nn.Identity):
            raise InputError("SRRL must be built with the outputs of a dry run before it is called, got no build()")
        ((s, t),) = self.pairs(student, teacher)
        x = self.connector(as_map(s))
        feature, classifier = pooled(x), self.classifier[0]
        bias = None if classifier.bias is None else whole(classifier.bias)
        read = F.linear(feature, whole(classifier.weight), bias)
        return srrl(feature, pooled(t), read, teacher.logits, self.regression_weight)
