"""Adaptive Kullback-Leibler divergence."""

from functools import partial

import torch
from torch import Tensor

from lit_distill.losses.checks import require
from lit_distill.losses.divergences.base import Divergence
from lit_distill.losses.divergences.rows import log_probs, rows_with_gradient, through_softmax
from lit_distill.losses.known_gradient import Gradient
from lit_distill.losses.precision import fp32


@fp32
def adaptive_kl(
    student_logits: Tensor, teacher_logits: Tensor, mu: float = 0.5, temperature: float | Tensor = 1.0
) -> Tensor:
    r"""Forward and reverse divergence, weighed by where teacher p and student q differ, row by row.

    .. math:: \frac{g_h}{g_h + g_t} \mathrm{KL}(p \,\|\, q) + \frac{g_t}{g_h + g_t} \mathrm{KL}(q \,\|\, p),
        g_h = \sum_{c \in \mathrm{head}} |p_c - q_c|, \quad g_t = \sum_{c \in \mathrm{tail}} |p_c - q_c|

    The head are the teacher's likeliest classes while their probabilities add up to at most mu, and always
    the first. The weights carry no gradient; where p and q are equal the value is 0.

    Args:
        student_logits: Scores of the student, ``(..., C)``.
        teacher_logits: Scores of the teacher, ``(..., C)``.
        mu: Probability of the head, in [0, 1].
        temperature: Divides both logits. The value is not multiplied by its square.

    Returns:
        One value a row, ``(...)``.
    """
    _check_mu(mu)
    return rows_with_gradient(partial(_adaptive, mu=mu), student_logits, teacher_logits, temperature)


def _adaptive(student: Tensor, teacher: Tensor, temperature: float, mu: float) -> tuple[Tensor, Gradient]:
    head = _head_share(student.detach(), teacher.detach(), temperature, mu)
    log_q, log_p = log_probs(student, teacher, temperature)
    q, p, ratio = log_q.exp(), log_p.exp(), log_q - log_p
    del log_q, log_p

    def gradient() -> Tensor:
        at_head = head.unsqueeze(-1)
        of_head = (q - p).mul_(at_head)
        return through_softmax(ratio.mul_(q), q).mul_(1 - at_head).add_(of_head)

    return (1 - head) * (q * ratio).sum(-1) - head * (p * ratio).sum(-1), gradient


def _head_share(student: Tensor, teacher: Tensor, temperature: float, mu: float) -> Tensor:
    """The part of the gap between p and q that lies in the head of p, ``(..., C) -> (...)``."""
    q, p = (log_p.exp_() for log_p in log_probs(student, teacher, temperature))
    p, order = p.sort(dim=-1, descending=True)
    gap = (p - q.gather(-1, order)).abs()
    del q, order
    head = p.cumsum(-1) <= mu
    head[..., 0] = True
    # at equality both KLs are 0 whatever their weights
    return torch.where(head, gap, 0).sum(-1) / gap.sum(-1).clamp(min=torch.finfo(gap.dtype).tiny)


def _check_mu(mu: float) -> None:
    require(0 <= mu <= 1, "mu", mu, "in [0, 1]")


class AdaptiveKL(Divergence):
    r"""Forward KL for the head of the teacher's distribution, reverse KL for its tail.

    Paper: Wu et al., Rethinking Kullback-Leibler Divergence in Knowledge Distillation for Large Language
        Models, COLING 2025, https://arxiv.org/abs/2404.02657

    .. math:: \frac{g_h}{g_h + g_t} \mathrm{KL}(p \,\|\, q) + \frac{g_t}{g_h + g_t} \mathrm{KL}(q \,\|\, p),
        g_h = \sum_{c \in \mathrm{head}} |p_c - q_c|, \quad g_t = \sum_{c \in \mathrm{tail}} |p_c - q_c|

    with teacher p and student q. The head are the teacher's likeliest classes while their probabilities add
    up to at most mu, and always the first one.

    Args:
        mu: Probability of the head, in [0, 1].

    Shape:
        Logits ``(..., C)`` of both; output ``(...)``.

    Raises:
        InputError: If ``mu`` lies outside [0, 1].

    Traps:
        - The weights must carry no gradient.
        - TAID's port applies a mask made in sorted order to gaps in class order: nearly plain reverse KL.
        - DSKD counts the class that crosses mu to the head, and its head has a probability of 1 - mu.

    Code: ``wutaiqiang/LLM_KD_AKL:AKL.py``, equal to the formula.

    Example:
        >>> import torch
        >>> AdaptiveKL(mu=0.5)(torch.zeros(2, 4), torch.zeros(2, 4))
        tensor([0., 0.])
    """

    def __init__(self, mu: float = 0.5) -> None:
        super().__init__()
        _check_mu(mu)
        self.mu = mu

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
        """The divergence of each row, ``(..., C) -> (...)``."""
        return adaptive_kl(student_logits, teacher_logits, self.mu, temperature=temperature)
