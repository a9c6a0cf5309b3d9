"""Log-probabilities of rows of logits, and one reduction of rows to a loss."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from lit_distill.errors import InputError
from lit_distill.losses.checks import check_same_shape, check_temperature, require
from lit_distill.losses.known_gradient import Gradient, with_gradient

# A class ruled out by a logit of -inf gets this log-probability: its probability is exactly 0 as it should
# be, and 0 * (log p - log q) is 0 where -inf would give nan. No finite logits of use come near it.
FLOOR = -1e30


def log_probs(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor = 1.0
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of student and teacher, both softened by ``temperature``.

    Args:
        student_logits: Scores of the student, ``(..., C)``.
        teacher_logits: Scores of the teacher, ``(..., C)``.
        temperature: Divides both logits; a tensor holds one temperature for all rows ``()`` or one per row
            ``(...)``.

    Returns:
        ``(log q, log p)``, student first, each ``(..., C)``.

    Raises:
        InputError: If the shapes differ or the temperature is not positive.
    """
    _check(student_logits, teacher_logits, temperature)
    return softened(student_logits, temperature), softened(teacher_logits, temperature)


def softened(logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """Log-probabilities of one network, of which none is -inf.

    Args:
        logits: Its scores, ``(..., C)``.
        temperature: Divides them: a number, or a tensor of one temperature for all rows ``()`` or one per row
            ``(...)``.
    """
    log_p = divided(logits, temperature).log_softmax(-1)
    return log_p.clamp(min=FLOOR) if log_p.requires_grad else log_p.clamp_(min=FLOOR)


def divided(logits: Tensor, temperature: float | Tensor) -> Tensor:
    """The logits of one network over a temperature: a number, one for all rows ``()`` or one per row ``(...)``."""
    if not isinstance(temperature, Tensor):
        return logits if temperature == 1 else logits / temperature
    if temperature.requires_grad:
        # a class at -inf has no probability at any temperature; dividing -inf would give T the gradient 0 * inf
        logits = logits.clamp(min=FLOOR)
    return logits / (temperature.unsqueeze(-1) if temperature.dim() > 0 else temperature)


def _check(student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor) -> None:
    check_same_shape(student_logits, teacher_logits, "logits")
    check_temperature(temperature)
    if isinstance(temperature, Tensor) and temperature.dim() > 0:
        require(
            temperature.shape == student_logits.shape[:-1],
            "temperature",
            f"shape {tuple(temperature.shape)}",
            f"a number or one value a row, {tuple(student_logits.shape[:-1])}",
        )


def rows_with_gradient(
    term: Callable[[Tensor, Tensor, float], tuple[Tensor, Gradient]],
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float | Tensor,
) -> Tensor:
    """Value of each row of a divergence that says its own gradient.

    Args:
        term: From the logits of student and teacher ``(..., C)`` and a temperature to the value of each row ``(...)``,
            and a function for the gradient for the student's logits over the temperature: see :func:`with_gradient`.
        student_logits: Scores of the student, ``(..., C)``.
        teacher_logits: Scores of the teacher, ``(..., C)``.
        temperature: Divides both logits; a tensor holds one temperature for all rows ``()`` or one per row ``(...)``.

    Raises:
        InputError: If the shapes differ or the temperature is not positive.
    """
    _check(student_logits, teacher_logits, temperature)
    if isinstance(temperature, Tensor):  # its own gradient is left to autograd
        student_logits, teacher_logits = divided(student_logits, temperature), divided(teacher_logits, temperature)
    fixed = 1.0 if isinstance(temperature, Tensor) else temperature
    return with_gradient(partial(_tempered, term, fixed), student_logits, teacher_logits)


def _tempered(
    term: Callable[[Tensor, Tensor, float], tuple[Tensor, Gradient]],
    temperature: float,
    student: Tensor,
    teacher: Tensor,
) -> tuple[Tensor, Gradient]:
    rows, gradient = term(student, teacher, temperature)
    return rows, gradient if temperature == 1 else lambda: gradient().div_(temperature)


def cross_entropy_rows(student_logits: Tensor, weights: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    r"""Cross entropy of the student with weights of the classes, row by row.

    .. math:: -\sum_c w_c \log q_c

    Args:
        student_logits: Scores of the student, ``(..., C)``.
        weights: Probabilities of the classes, or any other numbers, ``(..., C)``.
        temperature: Divides the student's scores.

    Returns:
        One value a row, ``(...)``.

    Example:
        >>> cross_entropy_rows(torch.zeros(1, 2), torch.tensor([[0.0, 3.0]]))
        tensor([2.0794])
    """
    return with_gradient(_cross_entropy, student_logits, weights, temperature)


def _cross_entropy(student: Tensor, weights: Tensor, temperature: float | Tensor) -> tuple[Tensor, Gradient]:
    student = divided(student, temperature)

    def gradient() -> Tensor:
        return divided(student.softmax(-1).mul_(weights.sum(-1, keepdim=True)).sub_(weights), temperature)

    return -(weights * softened(student)).sum(-1), gradient


def through_softmax(h: Tensor, q: Tensor) -> Tensor:
    r"""Gradient for logits of a value whose gradient for their probabilities q is h / q: ``h``, changed in place.

    .. math:: h_c - q_c \sum_k h_k

    Args:
        h: The gradient for the probabilities times the probabilities, ``(..., C)``.
        q: The probabilities, ``(..., C)``.
    """
    return h.sub_(q * h.sum(-1, keepdim=True))


def kl_rows(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) of each row of log-probabilities: ``(..., C), (..., C) -> (...)``."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def reduce_rows(values: Tensor, mask: Tensor | None = None, total: Tensor | float | None = None) -> Tensor:
    r"""Mean of the rows that count.

    .. math:: \frac{\sum_r m_r v_r}{\sum_r m_r}

    When no row counts the result is 0 and still part of the graph, so that every rank of a distributed run
    takes part in the backward pass.

    Args:
        values: Value of each row, ``(...)``.
        mask: True (or 1) for the rows that count, ``(...)``. Default: all of them.
        total: Divide by this number instead, where these rows are a part of a batch: the number of counting
            rows on all ranks and in all micro-batches. Strategies that average gradients over ranks (DDP,
            FSDP) then need the result times the number of ranks.

    Returns:
        A scalar.

    Raises:
        InputError: If ``mask`` has another shape than ``values``.

    Example:
        >>> reduce_rows(torch.tensor([1.0, 2.0, 9.0]), mask=torch.tensor([True, True, False]))
        tensor(1.5000)
        >>> reduce_rows(torch.tensor([1.0, 2.0]), total=6)
        tensor(0.5000)
    """
    if mask is None and total is None:
        return values.mean() if values.numel() else values.sum()
    if mask is None:
        counted: Tensor | int = values.numel()
    else:
        if mask.shape != values.shape:
            raise InputError(f"mask must have the shape of the rows {tuple(values.shape)}, got {tuple(mask.shape)}")
        # where, not a product: a row that does not count may hold inf or nan (padding)
        values = torch.where(mask.bool(), values, 0)
        counted = mask.bool().sum()
    divisor = torch.as_tensor(counted if total is None else total, device=values.device)
    return values.sum() / divisor.clamp(min=1)
