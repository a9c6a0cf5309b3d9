"""Checks of what a user gives to a loss."""

from torch import Tensor

from lit_distill.errors import InputError


def require(ok: bool, argument: str, given: object, accepted: str) -> None:
    """Raise an :class:`InputError` that names the argument, the given and the accepted, unless ``ok``."""
    if not ok:
        raise InputError(f"{argument} must be {accepted}, got {given}")


def check_temperature(temperature: float | Tensor) -> None:
    """Raise unless positive; the values of a tensor are not read, which would stall an accelerator."""
    if not isinstance(temperature, Tensor):
        require(temperature > 0, "temperature", temperature, "positive")


def check_same_shape(student: Tensor, teacher: Tensor, what: str) -> None:
    """Raise unless both tensors have one shape: broadcasting would hide a mistake."""
    if student.shape != teacher.shape:
        raise InputError(
            f"student and teacher {what} must be of one shape, got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
