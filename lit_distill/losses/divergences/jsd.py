"""Generalised Jensen-Shannon divergence."""

import math
from functools import partial

import torch
from torch import Tensor

from lit_distill.losses.checks import require
from lit_distill.losses.divergences.base import Divergence
from lit_distill.losses.divergences.kl import forward_kl, reverse_kl
from lit_distill.losses.divergences.rows import kl_rows, log_probs, rows_with_gradient, through_softmax
from lit_distill.losses.known_gradient import Gradient
from lit_distill.losses.precision import fp32


@fp32
def jsd(student_logits: Tensor, teacher_logits: Tensor, beta: float = 0.5, temperature: float | Tensor = 1.0) -> Tensor:
    r"""Generalised Jensen-Shannon divergence of teacher p and student q, row by row.

    .. math:: \beta \, \mathrm{KL}(p \,\|\, m) + (1 - \beta) \, \mathrm{KL}(q \,\|\, m), \quad
        m = \beta p + (1 - \beta) q

    As in GKD, ``beta=0`` stands for KL(p || q) and ``beta=1`` for KL(q || p). The value is not continuous
    there: it tends to 0 as beta nears either end. :func:`normalised_jsd` is continuous.

    Args:
        student_logits: Scores of the student, ``(..., C)``.
        teacher_logits: Scores of the teacher, ``(..., C)``.
        beta: Weight of the teacher in the mixture, in [0, 1].
        temperature: Divides both logits. The value is not multiplied by its square.

    Returns:
        One value a row, ``(...)``.
    """
    _check_beta(beta)
    if beta == 0:
        return forward_kl(student_logits, teacher_logits, temperature)
    if beta == 1:
        return reverse_kl(student_logits, teacher_logits, temperature)
    return rows_with_gradient(partial(_jsd, beta=beta), student_logits, teacher_logits, temperature)


def _jsd(student: Tensor, teacher: Tensor, temperature: float, beta: float) -> tuple[Tensor, Gradient]:
    log_q, log_p = log_probs(student, teacher, temperature)
    log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))
    of_teacher = kl_rows(log_p, log_m)
    del log_p
    q, ratio = log_q.exp(), log_q - log_m
    del log_q, log_m
    rows = beta * of_teacher + (1 - beta) * (q * ratio).sum(-1)
    return rows, lambda: through_softmax(ratio.mul_(q), q).mul_(1 - beta)


@fp32
def normalised_jsd(
    student_logits: Tensor, teacher_logits: Tensor, beta: float = 0.5, temperature: float | Tensor = 1.0
) -> Tensor:
    r"""Generalised Jensen-Shannon divergence on one scale for every beta, row by row.

    .. math:: \frac{\mathrm{JSD}_\beta(p, q)}{\beta (1 - \beta)}

    It tends to KL(p || q) as beta nears 0 and to KL(q || p) as beta nears 1, the values at both ends.

    Args:
        student_logits: Scores of the student, ``(..., C)``.
        teacher_logits: Scores of the teacher, ``(..., C)``.
        beta: Weight of the teacher in the mixture, in [0, 1].
        temperature: Divides both logits. The value is not multiplied by its square.

    Returns:
        One value a row, ``(...)``.
    """
    scale = beta * (1 - beta) or 1.0
    return jsd(student_logits, teacher_logits, beta, temperature=temperature) / scale


def _check_beta(beta: float) -> None:
    require(0 <= beta <= 1, "beta", beta, "in [0, 1]")


class JSD(Divergence):
    r"""Generalised Jensen-Shannon divergence, between forward and reverse KL (GKD).

    Paper: Agarwal et al., On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes,
        ICLR 2024, https://arxiv.org/abs/2306.13649

    .. math:: \beta \, \mathrm{KL}(p \,\|\, m) + (1 - \beta) \, \mathrm{KL}(q \,\|\, m), \quad
        m = \beta p + (1 - \beta) q

    with teacher p and student q; ``beta=0`` stands for KL(p || q) and ``beta=1`` for KL(q || p).

    Args:
        beta: Weight of the teacher in the mixture, in [0, 1].

    Shape:
        Logits ``(..., C)`` of both; output ``(...)``.

    Raises:
        InputError: If ``beta`` lies outside [0, 1].

    Traps:
        - Not continuous at the ends: near 0 and 1 the value tends to 0, at them it is a full KL.
          ``NormalisedJSD`` has no such jump.
        - DistiLLM's ``lam`` is 1 - beta, TAID's ``teacher_weight`` is beta; TRL before March 2025 had the
          mixture swapped.

    Code: ``huggingface/trl:trl/experimental/gkd/gkd_trainer.py`` (generalized_jsd_loss), equal to the
        formula.

    Example:
        >>> import torch
        >>> JSD(beta=0.1)(torch.zeros(2, 4), torch.zeros(2, 4)).abs() < 1e-6
        tensor([True, True])
    """

    def __init__(self, beta: float = 0.5) -> None:
        super().__init__()
        _check_beta(beta)
        self.beta = beta

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
        """The divergence of each row, ``(..., C) -> (...)``."""
        return jsd(student_logits, teacher_logits, self.beta, temperature=temperature)


class NormalisedJSD(Divergence):
    r"""Generalised Jensen-Shannon divergence on one scale for every beta.

    Paper: Agarwal et al., On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes,
        ICLR 2024, https://arxiv.org/abs/2306.13649

    .. math:: \frac{1}{\beta (1 - \beta)} \big( \beta \, \mathrm{KL}(p \,\|\, m) + (1 - \beta) \,
        \mathrm{KL}(q \,\|\, m) \big), \quad m = \beta p + (1 - \beta) q

    with teacher p and student q. The factor is ours, not the paper's: with it beta moves steadily from
    KL(p || q) at 0 to KL(q || p) at 1, and a weight tuned for one beta serves the others.

    Args:
        beta: Weight of the teacher in the mixture, in [0, 1].

    Shape:
        Logits ``(..., C)`` of both; output ``(...)``.

    Raises:
        InputError: If ``beta`` lies outside [0, 1].

    Traps:
        - At ``beta=0.5`` it is four times ``JSD``.

    Code: ``huggingface/trl:trl/experimental/gkd/gkd_trainer.py`` (generalized_jsd_loss) without the factor.

    Example:
        >>> import torch
        >>> NormalisedJSD(beta=0.1)(torch.zeros(2, 4), torch.zeros(2, 4)).abs() < 1e-6
        tensor([True, True])
    """

    def __init__(self, beta: float = 0.5) -> None:
        super().__init__()
        _check_beta(beta)
        self.beta = beta

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
        """The divergence of each row, ``(..., C) -> (...)``."""
        return normalised_jsd(student_logits, teacher_logits, self.beta, temperature=temperature)
