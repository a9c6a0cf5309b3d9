"""Kullback-Leibler divergences: forward, reverse and a mixture of both."""

from functools import partial

from torch import Tensor

from lit_distill.losses.checks import require
from lit_distill.losses.divergences.base import Divergence
from lit_distill.losses.divergences.rows import divided, log_probs, rows_with_gradient, softened, through_softmax
from lit_distill.losses.known_gradient import Gradient
from lit_distill.losses.precision import fp32


@fp32
def forward_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    r"""Forward divergence KL(p || q) of teacher p and student q, row by row.

    .. math:: \mathrm{KL}(p \,\|\, q) = \sum_c p_c (\log p_c - \log q_c), \quad p = \mathrm{softmax}(z^t / T)

    Args:
        student_logits: Scores of the student, ``(..., C)``.
        teacher_logits: Scores of the teacher, ``(..., C)``.
        temperature: Divides both logits. The value is not multiplied by its square.

    Returns:
        One value a row, ``(...)``.

    Example:
        >>> import torch
        >>> forward_kl(torch.zeros(2, 4), torch.zeros(2, 4))
        tensor([0., 0.])
    """
    return rows_with_gradient(kl_term, student_logits, teacher_logits, temperature)


def kl_term(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> tuple[Tensor, Gradient]:
    """What :func:`forward_kl` computes, and its gradient for the student's logits over the temperature.

    Args:
        student: Scores of the student, ``(..., C)``.
        teacher: Scores of the teacher, ``(..., C)``.
        temperature: Divides both.
    """
    student, teacher = divided(student, temperature), divided(teacher, temperature)
    # a softmax takes less time than the exponential of a logarithm that is at hand
    p = teacher.softmax(-1)
    rows = softened(teacher).sub_(softened(student)).mul_(p).sum(-1)
    return rows, lambda: student.softmax(-1).sub_(p)


@fp32
def reverse_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    r"""Reverse divergence KL(q || p) of teacher p and student q, row by row.

    .. math:: \mathrm{KL}(q \,\|\, p) = \sum_c q_c (\log q_c - \log p_c)

    Args:
        student_logits: Scores of the student, ``(..., C)``.
        teacher_logits: Scores of the teacher, ``(..., C)``.
        temperature: Divides both logits. The value is not multiplied by its square.

    Returns:
        One value a row, ``(...)``.
    """
    return rows_with_gradient(_reverse, student_logits, teacher_logits, temperature)


def _reverse(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Gradient]:
    log_q, log_p = log_probs(student, teacher, temperature)
    ratio, q = log_q - log_p, log_q.exp()
    del log_p
    return (q * ratio).sum(-1), lambda: through_softmax(ratio.mul_(q), q)


@fp32
def mixed_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    reverse_weight: float = 0.5,
    temperature: float | Tensor = 1.0,
) -> Tensor:
    r"""Forward and reverse divergence in one, row by row.

    .. math:: (1 - w) \, \mathrm{KL}(p \,\|\, q) + w \, \mathrm{KL}(q \,\|\, p)

    Args:
        student_logits: Scores of the student, ``(..., C)``.
        teacher_logits: Scores of the teacher, ``(..., C)``.
        reverse_weight: Share w of the reverse divergence, in [0, 1].
        temperature: Divides both logits. The value is not multiplied by its square.

    Returns:
        One value a row, ``(...)``.
    """
    _check_share(reverse_weight)
    return rows_with_gradient(partial(_mixed, w=reverse_weight), student_logits, teacher_logits, temperature)


def _mixed(student: Tensor, teacher: Tensor, temperature: float, w: float) -> tuple[Tensor, Gradient]:
    log_q, log_p = log_probs(student, teacher, temperature)
    ratio, q, p = log_q - log_p, log_q.exp(), log_p.exp()
    del log_q, log_p

    def gradient() -> Tensor:
        return through_softmax(ratio.mul_(q), q).mul_(w).add_(q, alpha=1 - w).sub_(p, alpha=1 - w)

    return ((w * q - (1 - w) * p) * ratio).sum(-1), gradient


def _check_share(reverse_weight: float) -> None:
    require(0 <= reverse_weight <= 1, "reverse_weight", reverse_weight, "in [0, 1]")


class ForwardKL(Divergence):
    r"""The student covers all that the teacher finds likely.

    Paper: Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, NIPS 2014 workshop,
        https://arxiv.org/abs/1503.02531

    .. math:: \mathrm{KL}(p \,\|\, q) = \sum_c p_c (\log p_c - \log q_c)

    with teacher p and student q.

    Shape:
        Logits ``(..., C)`` of both; output ``(...)``.

    Raises:
        InputError: If the shapes of the logits differ or the temperature is not positive.

    Traps:
        - DistiLLM, MiniLLM, TAID and torchtune leave out the teacher's entropy: same gradient, but their
          value is a cross entropy and never 0.
        - ``torch.nn.functional.kl_div(input, target)`` is KL(target || input), and its default reduction also
          divides by the number of classes.

    Code: ``huggingface/trl:trl/experimental/gkd/gkd_trainer.py`` (beta = 0), equal to the formula.

    Example:
        >>> import torch
        >>> ForwardKL()(torch.zeros(2, 4), torch.zeros(2, 4))
        tensor([0., 0.])
    """

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
        """KL(teacher || student) of each row, ``(..., C) -> (...)``."""
        return forward_kl(student_logits, teacher_logits, temperature=temperature)


class ReverseKL(Divergence):
    r"""The student keeps to what the teacher finds likely.

    Paper: Gu et al., MiniLLM: Knowledge Distillation of Large Language Models, ICLR 2024,
        https://arxiv.org/abs/2306.08543

    .. math:: \mathrm{KL}(q \,\|\, p) = \sum_c q_c (\log q_c - \log p_c)

    with teacher p and student q. A student trained from scratch learns slowly with it: start from a trained
    one.

    Shape:
        Logits ``(..., C)`` of both; output ``(...)``.

    Raises:
        InputError: If the shapes of the logits differ or the temperature is not positive.

    Traps:
        - The weight :math:`q_c` carries gradient: detached, the expected gradient is 0.

    Code: ``jongwooko/distillm:distillm/losses.py`` (reverse_kl), equal to the formula. MiniLLM itself follows
        the policy gradient of this divergence over whole sequences; this is its form for one token.

    Example:
        >>> import torch
        >>> ReverseKL()(torch.zeros(2, 4), torch.zeros(2, 4))
        tensor([0., 0.])
    """

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
        """KL(student || teacher) of each row, ``(..., C) -> (...)``."""
        return reverse_kl(student_logits, teacher_logits, temperature=temperature)


class MixedKL(Divergence):
    r"""Forward and reverse divergence in one.

    Paper: Ko et al., DistiLLM: Towards Streamlined Distillation for Large Language Models, ICML 2024,
        https://arxiv.org/abs/2402.03898

    .. math:: (1 - w) \, \mathrm{KL}(p \,\|\, q) + w \, \mathrm{KL}(q \,\|\, p)

    with teacher p and student q.

    Args:
        reverse_weight: Share w of the reverse divergence KL(student || teacher), in [0, 1].

    Shape:
        Logits ``(..., C)`` of both; output ``(...)``.

    Raises:
        InputError: If ``reverse_weight`` lies outside [0, 1].

    Traps:
        - DistiLLM's ``lam`` weighs the reverse term (0.9), the ratio of torchtune and NeMo-RL the forward one
          (0.5).

    Code: ``jongwooko/distillm:distillm/losses.py`` (symmetric_kl), which leaves out the teacher's entropy in
        its forward term; the gradient is the same.

    Example:
        >>> import torch
        >>> MixedKL(reverse_weight=0.9)(torch.zeros(2, 4), torch.zeros(2, 4))
        tensor([0., 0.])
    """

    def __init__(self, reverse_weight: float = 0.5) -> None:
        super().__init__()
        _check_share(reverse_weight)
        self.reverse_weight = reverse_weight

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
        """The mixture of each row, ``(..., C) -> (...)``."""
        return mixed_kl(student_logits, teacher_logits, self.reverse_weight, temperature=temperature)
