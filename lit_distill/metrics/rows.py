"""Logits as rows."""

from torch import Tensor

from lit_distill.errors import InputError


def rows(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both logits ``(..., C)`` as matrices ``(N, C)``.

    Args:
        student: Logits of the student.
        teacher: Logits of the teacher, of the same shape.

    Raises:
        InputError: When the shapes differ or there is no class axis.
    """
    if student.shape != teacher.shape or student.ndim < 2:
        raise InputError(
            f"teacher: logits of shape {tuple(teacher.shape)} against the student's {tuple(student.shape)}; "
            "accepted are two equal shapes (..., C)"
        )
    return student.flatten(0, -2), teacher.flatten(0, -2)
