"""Alpha-beta divergence."""

import math
from functools import partial

import torch
from torch import Tensor

from lit_distill.losses.checks import require
from lit_distill.losses.divergences.base import Divergence
from lit_distill.losses.divergences.rows import log_probs, rows_with_gradient, through_softmax
from lit_distill.losses.known_gradient import Gradient
from lit_distill.losses.precision import fp32

# Exponents from here on are far enough from 0, by which the formula divides, and no power of a probability is infinite.
REGULAR = 0.1


@fp32
def alpha_beta(
    student_logits: Tensor,
    teacher_logits: Tensor,
    alpha: float = 0.2,
    beta: float = 0.7,
    temperature: float | Tensor = 1.0,
) -> Tensor:
    r"""Alpha-beta divergence of teacher p and student q, row by row.

    .. math:: -\frac{1}{\alpha \beta} \sum_c \Big( p_c^\alpha q_c^\beta - \frac{\alpha}{\alpha + \beta}
        p_c^{\alpha + \beta} - \frac{\beta}{\alpha + \beta} q_c^{\alpha + \beta} \Big)

    continued to all real alpha and beta: (1, 0) is KL(p || q), (0, 1) is KL(q || p), (0, 0) is half the
    squared distance of the log-probabilities. Negative exponents grow without bound as a class loses its
    probability; beyond the square root of what the number format holds, powers go on linearly, so that value
    and gradient stay finite.

    Args:
        student_logits: Scores of the student, ``(..., C)``.
        teacher_logits: Scores of the teacher, ``(..., C)``.
        alpha: Exponent of the teacher.
        beta: Exponent of the student.
        temperature: Divides both logits. The value is not multiplied by its square.

    Returns:
        One value a row, ``(...)``.
    """
    _check_exponents(alpha, beta)
    if min(alpha, beta) >= REGULAR:
        term = partial(_regular, alpha=alpha, beta=beta)
        return rows_with_gradient(term, student_logits, teacher_logits, temperature)
    log_q, log_p = log_probs(student_logits, teacher_logits, temperature)
    # With r = log p - log q and E(k, r) = (exp(k r) - 1) / k, or r at k = 0, the divergence is
    #   sum q^(alpha + beta) (E(alpha + beta, r) - E(alpha, r)) / beta
    # which has no singular case but beta = 0. It is also symmetric under (p, alpha) <-> (q, beta), so
    # dividing by the larger exponent leaves alpha = beta = 0 alone.
    if abs(alpha) > abs(beta):
        log_p, log_q, alpha, beta = log_q, log_p, beta, alpha
    ratio = log_p - log_q
    if beta == 0:
        return 0.5 * ratio.square().sum(-1)
    total = alpha + beta
    whole = _difference(total * log_p, total * log_q, ratio, total)
    part = _difference(alpha * log_p + beta * log_q, total * log_q, ratio, alpha)
    return (whole - part).sum(-1) / beta


def _regular(
    student: Tensor, teacher: Tensor, temperature: float, alpha: float, beta: float
) -> tuple[Tensor, Gradient]:
    log_q, log_p = log_probs(student, teacher, temperature)
    total = alpha + beta
    # of powers that are equal where p and q are: the divergence is then 0 to the bit
    own = (total * log_q).exp()
    part = ((alpha * log_p).add_(log_q, alpha=beta).exp() - own) / alpha
    whole = ((total * log_p).exp() - own) / total
    del log_p, own
    return (whole - part).sum(-1) / beta, lambda: through_softmax(part.neg_(), log_q.exp_())


def _difference(log_a: Tensor, log_b: Tensor, ratio: Tensor, exponent: float) -> Tensor:
    """``(a - b) / exponent`` where ``log a - log b = exponent * ratio``; at exponent 0 its limit."""
    if exponent == 0:
        return _exp(log_b) * ratio
    x = exponent * ratio
    # The larger of both is factored out, so that expm1 sees no positive number and cannot overflow, on neither branch:
    # a where passes the gradient of both. (A clamp would lose it at x = 0.)
    rest = torch.where(x > 0, -torch.expm1(-torch.where(x > 0, x, 0)), torch.expm1(torch.where(x > 0, 0, x)))
    return _exp(torch.maximum(log_a, log_b)) * rest / exponent


def _exp(x: Tensor) -> Tensor:
    """The exponential, continued by its tangent from the square root of the largest number on."""
    end = math.log(torch.finfo(x.dtype).max) / 2
    return x.clamp(max=end).exp() * (1 + (x - end).clamp(min=0))


def _check_exponents(alpha: float, beta: float) -> None:
    require(math.isfinite(alpha), "alpha", alpha, "a finite number")
    require(math.isfinite(beta), "beta", beta, "a finite number")


class AlphaBeta(Divergence):
    r"""Alpha-beta divergence: forward KL, reverse KL and Hellinger distance are of its family (ABKD).

    Paper: Wang et al., ABKD: Pursuing a Proper Allocation of the Probability Mass in Knowledge Distillation
        via alpha-beta-Divergence, ICML 2025, https://arxiv.org/abs/2505.04560

    .. math:: -\frac{1}{\alpha \beta} \sum_c \Big( p_c^\alpha q_c^\beta - \frac{\alpha}{\alpha + \beta}
        p_c^{\alpha + \beta} - \frac{\beta}{\alpha + \beta} q_c^{\alpha + \beta} \Big)

    with teacher p and student q, continued to all real exponents: (1, 0) is KL(p || q), (0, 1) is KL(q || p),
    (0, 0) half the squared distance of the log-probabilities, (0.5, 0.5) four times the squared Hellinger
    distance.

    Args:
        alpha: Exponent of the teacher. A larger one looks harder at classes where the student lacks
            probability.
        beta: Exponent of the student. A larger one looks harder at classes the student is confident of.

    Shape:
        Logits ``(..., C)`` of both; output ``(...)``.

    Raises:
        InputError: If an exponent is not finite.

    Traps:
        - Negative exponents grow without bound as a class loses its probability. When both add up to less
          than 0, classes ruled out by a logit of -inf are not allowed.

    Code: ``ghwang-s/abkd:distillation_llm/distillm/losses.py`` (ab_div). Where one exponent or their sum is 0
        the release divides by the other exponent once, the limit of the formula by its square: this is the
        limit, so the two agree there only for an exponent of 1.

    Example:
        >>> import torch
        >>> AlphaBeta(alpha=0.5, beta=0.5)(torch.zeros(2, 4), torch.zeros(2, 4))
        tensor([0., 0.])
    """

    def __init__(self, alpha: float = 0.2, beta: float = 0.7) -> None:
        super().__init__()
        _check_exponents(alpha, beta)
        self.alpha = alpha
        self.beta = beta

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
        """The divergence of each row, ``(..., C) -> (...)``."""
        return alpha_beta(student_logits, teacher_logits, self.alpha, self.beta, temperature=temperature)
