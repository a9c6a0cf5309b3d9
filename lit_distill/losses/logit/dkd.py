"""Decoupled knowledge distillation: the label against the rest, and the rest among themselves."""

from functools import partial
from typing import Any

from torch import Tensor

from lit_distill.core.outputs import Outputs
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import check_same_shape, check_temperature, require
from lit_distill.losses.divergences.rows import kl_rows, reduce_rows, rows_with_gradient
from lit_distill.losses.known_gradient import Gradient
from lit_distill.losses.labels import apart, hard_labels
from lit_distill.losses.precision import fp32


@fp32
def dkd_rows(student: Tensor, teacher: Tensor, target: Tensor, temperature: float = 4.0) -> tuple[Tensor, Tensor]:
    """The two parts of :func:`dkd`, row by row.

    Args:
        student: Logits of the student, ``(..., C)``.
        teacher: Logits of the teacher, ``(..., C)``.
        target: Class indices ``(...)``, or class probabilities ``(..., C)`` of which the likeliest class counts.
        temperature: Divides both logits.

    Returns:
        Divergences of the label against the rest (TCKD) and among the rest (NCKD), each ``(...)`` and times the square
        of the temperature.
    """
    check_same_shape(student, teacher, "logits")
    check_temperature(temperature)
    labels = hard_labels(target, student)
    (log_q, rest_q), (log_p, rest_p) = (apart(logits, labels, temperature) for logits in (student, teacher))
    return temperature**2 * kl_rows(log_p, log_q), temperature**2 * kl_rows(rest_p, rest_q)


@fp32
def dkd(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Tensor:
    r"""Divergence of the label against the rest, and that among the rest, each with a factor of its own.

    The formula is that of :class:`DKD`.

    Args:
        student: Logits of the student, ``(B, C)``.
        teacher: Logits of the teacher, ``(B, C)``.
        target: Class indices ``(B,)``, or class probabilities ``(B, C)`` of which the likeliest class counts.
        alpha: Factor of the label against the rest.
        beta: Factor of the rest among themselves.
        temperature: Divides both logits.

    Returns:
        A scalar.

    Example:
        >>> import torch
        >>> dkd(torch.tensor([[9.0, 1.0, 2.0]]), torch.tensor([[9.0, 1.0, 2.0]]), torch.tensor([0]))
        tensor(0.)
    """
    check_same_shape(student, teacher, "logits")
    term = partial(_term, labels=hard_labels(target, student), alpha=alpha, beta=beta)
    return temperature**2 * reduce_rows(rows_with_gradient(term, student, teacher, temperature))


def _term(
    student: Tensor, teacher: Tensor, temperature: float, labels: Tensor, alpha: float, beta: float
) -> tuple[Tensor, Gradient]:
    (log_q, rest_q), (log_p, rest_p) = (apart(logits, labels, temperature) for logits in (student, teacher))
    p, ratio = rest_p.exp(), rest_p - rest_q
    del rest_p

    def gradient() -> Tensor:
        excess = alpha * (log_q.exp() - log_p.exp())[..., :1]
        others = rest_q.exp_().mul_(beta - excess).sub_(p, alpha=beta)
        return others.scatter_(-1, labels.unsqueeze(-1), excess)

    return alpha * kl_rows(log_p, log_q) + beta * (p * ratio).sum(-1), gradient


class DKD(LogitLoss):
    r"""What the teacher says of the label and what it says of the other classes get weights of their own.

    Paper: Zhao et al., Decoupled Knowledge Distillation, CVPR 2022, https://arxiv.org/abs/2203.08679

    .. math:: \frac{T^2}{B} \sum_b \alpha \, \mathrm{KL}\big( [p_y, 1 - p_y] \,\|\, [q_y, 1 - q_y] \big)
        + \beta \, \mathrm{KL}\big( \hat p \,\|\, \hat q \big)

    with teacher p and student q, both softened by T, the label y, and :math:`\hat p, \hat q` the softmax over the
    classes other than y. ``KD`` is this with :math:`\beta = 1 - p_y` for each sample, so that a teacher sure of the
    label says nothing of the other classes. The authors warm the term up over 20 of 240 epochs (callback ``WarmUp``)
    beside cross entropy with weight 1. On ImageNet T = 1 and :math:`\beta` is 0.5 (ResNet-34 to ResNet-18) or 2
    (ResNet-50 to MobileNet).

    Args:
        alpha: Factor of the label against the rest.
        beta: Factor of the rest among themselves; the more confident the teacher, the higher.
        temperature: Divides the logits of both networks.

    Shape:
        Logits ``(B, C)`` of both; target ``(B,)``, or ``(B, C)`` of which the likeliest class counts; output a
        scalar.

    Raises:
        InputError: If the temperature is not positive, a factor is negative, the shapes of the logits differ or the
            target does not fit them.

    Traps:
        - The logarithm of :math:`1 - q_y`, taken of the probability, is -inf for a student that is certain. Here it
          comes from the logits of the other classes.
        - mmrazor's version sums over the batch, whatever its ``reduction``.

    Code: ``megvii-research/mdistiller:mdistiller/distillers/DKD.py``, equal to the paper but for the warm-up, which
        only the code has.

    Example:
        >>> import torch
        >>> outputs = Outputs(torch.tensor([[9.0, 1.0, 2.0]]))
        >>> DKD(alpha=1.0, beta=8.0)(outputs, outputs, torch.tensor([0]))
        tensor(0.)
    """

    def __init__(self, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require(alpha >= 0, "alpha", alpha, "0 or positive")
        require(beta >= 0, "beta", beta, "0 or positive")
        check_temperature(temperature)
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Both divergences with their factors, mean over the batch."""
        return dkd(student.logits, teacher.logits, target, self.alpha, self.beta, self.temperature)
