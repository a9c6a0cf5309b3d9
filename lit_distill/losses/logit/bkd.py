"""Binary knowledge distillation: every class is a question of its own."""

from torch import Tensor
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import check_same_shape
from lit_distill.losses.precision import fp32


@fp32
def bkd(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Binary cross entropy of the student's sigmoids with the teacher's softmax, over samples and classes.

    The formula is that of :class:`BKD`.

    Args:
        student: Logits of the student, ``(B, C)``; more dimensions than one before the classes count as batch.
        teacher: Logits of the teacher, ``(B, C)``.

    Returns:
        A scalar.

    Example:
        >>> import torch
        >>> bkd(torch.zeros(1, 4), torch.zeros(1, 4))
        tensor(0.6931)
    """
    check_same_shape(student, teacher, "logits")
    return F.binary_cross_entropy_with_logits(student, teacher.softmax(-1))


class BKD(LogitLoss):
    r"""The student answers each class with a sigmoid, towards the teacher's softmax.

    Paper: Hao et al., One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation,
        NeurIPS 2023, https://arxiv.org/abs/2310.19444

    .. math:: -\frac{1}{B C} \sum_{bc} p_{bc} \log \sigma(z^s_{bc}) + (1 - p_{bc}) \log\big( 1 - \sigma(z^s_{bc}) \big)

    with the teacher's probabilities p: for students that are trained with binary cross entropy on the labels too. A
    baseline of the paper's released code, with weight 1.

    Shape:
        Logits ``(B, C)`` of both; output a scalar.

    Raises:
        InputError: If the shapes of the logits differ.

    Traps:
        - The mean is over samples and classes: over 1000 classes the value is small, and its gradient too.
        - A student that equals its teacher does not have the smallest value: that is at
          :math:`\sigma(z^s) = p`, where the student's own softmax is another one.
        - No temperature on either side.

    Code: ``Hao840/OFAKD:distillers/kd.py`` (BKD), equal to this.

    Example:
        >>> import torch
        >>> student, teacher = Outputs(torch.zeros(1, 4)), Outputs(torch.zeros(1, 4))
        >>> BKD()(student, teacher, torch.tensor([0]))
        tensor(0.6931)
    """

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Mean binary cross entropy of the batch and its classes."""
        return bkd(student.logits, teacher.logits)
