"""Regression of the teacher's probabilities."""

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import check_same_shape, check_temperature
from lit_distill.losses.divergences.rows import divided
from lit_distill.losses.precision import fp32


@fp32
def probability_mse(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    r"""Mean squared difference of the probabilities, over samples and classes.

    .. math:: \frac{1}{B C} \sum_b \big\| \mathrm{softmax}(z^s_b / T) - \mathrm{softmax}(z^t_b / T) \big\|^2

    Args:
        student: Logits of the student, ``(B, C)``.
        teacher: Logits of the teacher, ``(B, C)``.
        temperature: Divides both logits.

    Returns:
        A scalar.

    Example:
        >>> import torch
        >>> probability_mse(torch.tensor([[99.0, 0.0]]), torch.tensor([[0.0, 0.0]]))
        tensor(0.2500)
    """
    check_same_shape(student, teacher, "logits")
    q, p = (divided(logits, temperature).softmax(-1) for logits in (student, teacher))
    return F.mse_loss(q, p)


class ProbabilityMSE(LogitLoss):
    r"""Consistency of two answers: the squared difference of their probabilities.

    Paper: Laine, Aila, Temporal Ensembling for Semi-Supervised Learning, ICLR 2017, https://arxiv.org/abs/1610.02242;
        the consistency cost of Tarvainen, Valpola, Mean teachers are better role models, NIPS 2017,
        https://arxiv.org/abs/1703.01780

    .. math:: \frac{1}{B C} \sum_b \big\| \mathrm{softmax}(z^s_b / T) - \mathrm{softmax}(z^t_b / T) \big\|^2

    The mean is over samples and classes. It is bounded by 2 / C and its gradient fades where the student is sure, so
    that a teacher who is wrong does less harm than with ``KD``. Mean Teacher warms its weight up to 100 on CIFAR-10
    (``WarmUp``), with a ``MomentumTeacher``.

    Args:
        temperature: Divides the logits of both networks before the softmax. The value is not multiplied by its
            square.

    Shape:
        Logits ``(B, C)`` of both; output a scalar.

    Raises:
        InputError: If the temperature is not positive or the shapes of the logits differ.

    Traps:
        - Sums over classes are C times this: weights carried over from such code must be scaled.
        - A student that is sure of a wrong class gets next to no gradient; begin with labels.

    Code: ``CuriousAI/mean-teacher:pytorch/mean_teacher/losses.py`` (softmax_mse_loss), whose sum over the samples
        its training loop divides by their number.

    Example:
        >>> import torch
        >>> student, teacher = Outputs(torch.zeros(2, 4)), Outputs(torch.zeros(2, 4))
        >>> ProbabilityMSE()(student, teacher, torch.tensor([0, 3]))
        tensor(0.)
    """

    def __init__(self, temperature: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_temperature(temperature)
        self.temperature = temperature

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Mean squared difference of the batch."""
        return probability_mse(student.logits, teacher.logits, self.temperature)
