"""Regression of the teacher's logits."""

from torch import Tensor
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import check_same_shape
from lit_distill.losses.precision import fp32


@fp32
def logit_mse(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Mean squared difference of the logits, over samples and classes.

    .. math:: \frac{1}{B C} \sum_b \| z^s_b - z^t_b \|^2

    Args:
        student: Logits of the student, ``(B, C)``.
        teacher: Logits of the teacher, ``(B, C)``.

    Returns:
        A scalar.

    Example:
        >>> import torch
        >>> logit_mse(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0]]))
        tensor(0.5000)
    """
    check_same_shape(student, teacher, "logits")
    return F.mse_loss(student, teacher)


class LogitMSE(LogitLoss):
    r"""Regression of the teacher's logits, without a softmax.

    Paper: Kim et al., Comparing Kullback-Leibler Divergence and Mean Squared Error Loss in Knowledge
        Distillation, IJCAI 2021, https://arxiv.org/abs/2105.08919; first in Ba, Caruana, Do Deep Nets Really
        Need to be Deep?, NIPS 2014, https://arxiv.org/abs/1312.6184

    .. math:: \frac{1}{B C} \sum_b \| z^s_b - z^t_b \|^2

    The mean is over samples and classes. For logits of zero mean, ``KD`` tends to half of it at high
    temperature.

    Shape:
        Logits ``(B, C)`` of both; output a scalar.

    Raises:
        InputError: If the shapes of the logits differ.

    Traps:
        - Papers write sums over classes: C times this for Kim et al., C / 2 times for Ba and Caruana. Weights
          carried over from them must be scaled.
        - Logits count with their mean over classes, which no softmax sees.

    Code: ``jhoon-oh/kd_data:code/image_classfication/tools/losses.py`` (mse_logit), equal to this; the
        paper's formula sums over classes.

    Example:
        >>> import torch
        >>> student, teacher = Outputs(torch.ones(2, 4)), Outputs(torch.zeros(2, 4))
        >>> LogitMSE()(student, teacher, torch.tensor([0, 3]))
        tensor(1.)
    """

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Mean squared difference of the batch."""
        return logit_mse(student.logits, teacher.logits)
