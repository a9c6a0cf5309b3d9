"""Skew Kullback-Leibler divergences."""

import math
from functools import partial

import torch
from torch import Tensor

from lit_distill.losses.checks import require
from lit_distill.losses.divergences.base import Divergence
from lit_distill.losses.divergences.rows import log_probs, rows_with_gradient, through_softmax
from lit_distill.losses.known_gradient import Gradient
from lit_distill.losses.precision import fp32


@fp32
def skew_forward_kl(
    student_logits: Tensor, teacher_logits: Tensor, alpha: float = 0.1, temperature: float | Tensor = 1.0
) -> Tensor:
    r"""Divergence of teacher p from a mixture with student q, row by row.

    .. math:: \mathrm{KL}(p \,\|\, \alpha p + (1 - \alpha) q)

    Args:
        student_logits: Scores of the student, ``(..., C)``.
        teacher_logits: Scores of the teacher, ``(..., C)``.
        alpha: Weight of the teacher in the mixture, in [0, 1).
        temperature: Divides both logits. The value is not multiplied by its square.

    Returns:
        One value a row, ``(...)``.
    """
    _check_alpha(alpha)
    return rows_with_gradient(partial(_forward, alpha=alpha), student_logits, teacher_logits, temperature)


def _forward(student: Tensor, teacher: Tensor, temperature: float, alpha: float) -> tuple[Tensor, Gradient]:
    log_q, log_p = log_probs(student, teacher, temperature)
    p, ratio = log_p.exp(), log_p - _mixture(log_p, log_q, alpha)
    del log_p

    def gradient() -> Tensor:
        share = ratio.add_(log_q).exp_()  # q p / m
        return through_softmax(share, log_q.exp_()).mul_(alpha - 1)

    return (p * ratio).sum(-1), gradient


@fp32
def skew_reverse_kl(
    student_logits: Tensor, teacher_logits: Tensor, alpha: float = 0.1, temperature: float | Tensor = 1.0
) -> Tensor:
    r"""Divergence of student q from a mixture with teacher p, row by row.

    .. math:: \mathrm{KL}(q \,\|\, \alpha q + (1 - \alpha) p)

    Args:
        student_logits: Scores of the student, ``(..., C)``.
        teacher_logits: Scores of the teacher, ``(..., C)``.
        alpha: Weight of the student in the mixture, in [0, 1).
        temperature: Divides both logits. The value is not multiplied by its square.

    Returns:
        One value a row, ``(...)``.
    """
    _check_alpha(alpha)
    return rows_with_gradient(partial(_reverse, alpha=alpha), student_logits, teacher_logits, temperature)


def _reverse(student: Tensor, teacher: Tensor, temperature: float, alpha: float) -> tuple[Tensor, Gradient]:
    log_q, log_p = log_probs(student, teacher, temperature)
    q, ratio = log_q.exp(), log_q - _mixture(log_q, log_p, alpha)
    del log_q, log_p

    def gradient() -> Tensor:
        # log (q / m) - alpha q / m, of which the second is 0 without alpha however large the ratio
        slope = ratio.sub_(ratio.exp(), alpha=alpha) if alpha else ratio
        return through_softmax(slope.mul_(q), q)

    return (q * ratio).sum(-1), gradient


def _mixture(log_a: Tensor, log_b: Tensor, alpha: float) -> Tensor:
    """Logarithm of ``alpha * a + (1 - alpha) * b``, in which no probability underflows."""
    if alpha == 0:
        return log_b
    return torch.logaddexp(log_a + math.log(alpha), log_b + math.log1p(-alpha))


def _check_alpha(alpha: float) -> None:
    require(0 <= alpha < 1, "alpha", alpha, "in [0, 1)")


class SkewForwardKL(Divergence):
    r"""Forward KL against a mixture, whose gradient stays bounded (DistiLLM).

    Paper: Ko et al., DistiLLM: Towards Streamlined Distillation for Large Language Models, ICML 2024,
        https://arxiv.org/abs/2402.03898

    .. math:: \mathrm{KL}(p \,\|\, \alpha p + (1 - \alpha) q)

    with teacher p and student q.

    Args:
        alpha: Weight of the teacher in the mixture, in [0, 1); 0 is the plain forward KL.

    Shape:
        Logits ``(..., C)`` of both; output ``(...)``.

    Raises:
        InputError: If ``alpha`` lies outside [0, 1).

    Traps:
        - The release mixes probabilities, which underflow in half precision; here their logarithms are mixed.

    Code: ``jongwooko/distillm:distillm/losses.py`` (skewed_forward_kl), which leaves out the teacher's
        entropy; the gradient is the same.

    Example:
        >>> import torch
        >>> SkewForwardKL(alpha=0.1)(torch.zeros(2, 4), torch.zeros(2, 4)).abs() < 1e-6
        tensor([True, True])
    """

    def __init__(self, alpha: float = 0.1) -> None:
        super().__init__()
        _check_alpha(alpha)
        self.alpha = alpha

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
        """The divergence of each row, ``(..., C) -> (...)``."""
        return skew_forward_kl(student_logits, teacher_logits, self.alpha, temperature=temperature)


class SkewReverseKL(Divergence):
    r"""Reverse KL against a mixture, whose gradient stays bounded (DistiLLM).

    Paper: Ko et al., DistiLLM: Towards Streamlined Distillation for Large Language Models, ICML 2024,
        https://arxiv.org/abs/2402.03898

    .. math:: \mathrm{KL}(q \,\|\, \alpha q + (1 - \alpha) p)

    with teacher p and student q.

    Args:
        alpha: Weight of the student in the mixture, in [0, 1); 0 is the plain reverse KL.

    Shape:
        Logits ``(..., C)`` of both; output ``(...)``.

    Raises:
        InputError: If ``alpha`` lies outside [0, 1).

    Traps:
        - Alpha weighs the student here and the teacher in the forward form.
        - DistiLLM-2 detaches the student inside the mixture; this is the full gradient of DistiLLM.

    Code: ``jongwooko/distillm:distillm/losses.py`` (skewed_reverse_kl), equal to the formula.

    Example:
        >>> import torch
        >>> SkewReverseKL(alpha=0.1)(torch.zeros(2, 4), torch.zeros(2, 4)).abs() < 1e-6
        tensor([True, True])
    """

    def __init__(self, alpha: float = 0.1) -> None:
        super().__init__()
        _check_alpha(alpha)
        self.alpha = alpha

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
        """The divergence of each row, ``(..., C) -> (...)``."""
        return skew_reverse_kl(student_logits, teacher_logits, self.alpha, temperature=temperature)
