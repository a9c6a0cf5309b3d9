"""SimKD: the student answers with the teacher's classifier, and learns its feature alone."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses.base import FeatureLoss
from lit_distill.losses.checks import check_same_shape, require
from lit_distill.losses.classifier import classifier_of
from lit_distill.losses.precision import fp32
from lit_distill.losses.views import as_map, same_size
from lit_distill.models.reused_classifier import ReusedClassifier


@fp32
def simkd(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Mean squared difference of two maps.

    .. math:: \mathrm{mean} \big( (P(f^s) - f^t)^2 \big)

    Args:
        student: Map of the student behind the projector, ``(B, C, H, W)``.
        teacher: Map of the teacher, ``(B, C, H, W)``.

    Returns:
        A scalar, the mean over all entries.

    Raises:
        InputError: If the shapes of the maps differ.

    Example:
        >>> simkd(torch.ones(2, 3, 4, 4), torch.zeros(2, 3, 4, 4))
        tensor(1.)
    """
    check_same_shape(student, teacher, "maps")
    return F.mse_loss(student, teacher)


class SimKD(FeatureLoss):
    r"""The student's projected last map equals the teacher's, whose classifier it answers with.

    Paper: Chen et al., Knowledge Distillation with the Reused Teacher Classifier, CVPR 2022,
        https://arxiv.org/abs/2203.14001

    .. math:: \mathrm{mean} \big( (P(f^s) - f^t)^2 \big), \qquad z^s = W \, \mathrm{mean}_{hw} P(f^s) + b

    The student is a :class:`~lit_distill.models.reused_classifier.ReusedClassifier`, which holds the projector P and
    the classifier W, b and is what remains after training. Before it, this term copies the classifier of its teacher
    into the student. The authors train with this term alone and weight 1: no labels, no logits.

    Args:
        layers: Path of the student's projector to that of the teacher's last map. Default: ``projector``, and the map
            whose mean the teacher's classifier sees.

    Shape:
        Maps ``(B, D, H, W)``, of the same channels; a larger map of the teacher is averaged to the size of the
        student's. Output a scalar, summed over the pairs.

    Raises:
        InputError: If the student is no ``ReusedClassifier``, its classifier has another shape than the teacher's, or
            the channels of the maps differ.

    Traps:
        - The student is larger than the network it is made of: compare its cost with the projector.
        - What remains of the teacher's map behind its ReLU is not negative, as the projector's output is not.
        - Cross entropy beside it trains the projector too, but not the classifier.

    Code: ``DefangChen/SimKD:models/util.py`` and ``helper/loops.py``, equal to the paper.

    Example:
        >>> from lit_distill.models import ConvNet, resnet8
        >>> teacher = resnet8(num_classes=10)
        >>> student = ReusedClassifier(ConvNet(depth=2), resnet8(num_classes=10), input_shape=(3, 8, 8))
        >>> loss = SimKD()
        >>> loss.choose_layers(student, teacher)
        >>> loss.attach(student, teacher)
        >>> loss.layers, torch.equal(student.classifier.weight, teacher.fc.weight)
        ({'projector': 'layer3'}, True)
    """

    def choose_layers(self, student: nn.Module, teacher: nn.Module) -> None:
        """Take the student's projector, and the map that it was made for, if no layers were given.

        Args:
            student: The student itself.
            teacher: The whole teacher, frozen.
        """
        prefix = "" if self.teacher is None else f"members.{self.teacher}."
        self.layers = self.layers or {"projector": f"{prefix}{_known(student).teacher_layer}"}

    def attach(self, student: nn.Module, teacher: nn.Module) -> None:
        """Copy the teacher's classifier into the student.

        Args:
            student: The student itself.
            teacher: The whole teacher.
        """
        own = _known(student).classifier
        reused = classifier_of(teacher, None, "teacher", member=self.teacher)
        given, accepted = own.extra_repr(), reused.extra_repr()
        require(given == accepted, "student", f"a classifier ({given})", f"one with the teacher's ({accepted})")
        with torch.no_grad():
            for mine, theirs in zip(own.parameters(), reused.parameters(), strict=True):
                mine.copy_(theirs)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Squared error of the projected map."""
        pairs = [same_size(as_map(s), as_map(t)) for s, t in self.pairs(student, teacher)]
        return torch.stack([simkd(s, t) for s, t in pairs]).sum()


def _known(student: nn.Module) -> ReusedClassifier:
    if not isinstance(student, ReusedClassifier):
        raise InputError(f"student must be a ReusedClassifier for SimKD, got a {type(student).__name__}")
    return student
