"""Log-probabilities of rows of logits, and one reduction of rows to a loss."""

import torch
from torch import Tensor

from lit_distill.errors import InputError
from lit_distill.losses.checks import check_same_shape, check_temperature, require

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
    check_same_shape(student_logits, teacher_logits, "logits")
    check_temperature(temperature)
    if isinstance(temperature, Tensor) and temperature.dim() > 0:
        require(
            temperature.shape == student_logits.shape[:-1],
            "temperature",
            f"shape {tuple(temperature.shape)}",
            f"a number or one value a row, {tuple(student_logits.shape[:-1])}",
        )
        temperature = temperature.unsqueeze(-1)
    if isinstance(temperature, Tensor) and temperature.requires_grad:
        # a class at -inf has no probability at any temperature; dividing -inf would give T the gradient 0 * inf
        student_logits, teacher_logits = student_logits.clamp(min=FLOOR), teacher_logits.clamp(min=FLOOR)
    student, teacher = (
        (logits / temperature).log_softmax(-1).clamp(min=FLOOR) for logits in (student_logits, teacher_logits)
    )
    return student, teacher


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
