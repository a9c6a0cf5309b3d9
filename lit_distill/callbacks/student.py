"""The student that a callback is about."""

import lightning as L
from torch import nn

from lit_distill.errors import InputError


def student_of(pl_module: L.LightningModule, callback: L.Callback) -> nn.Module:
    """The network that ``pl_module`` trains.

    Args:
        pl_module: The module in training.
        callback: Who asks.

    Raises:
        InputError: When the module has no ``student``.
    """
    student = getattr(pl_module, "student", None)
    if not isinstance(student, nn.Module):
        name = type(callback).__name__
        raise InputError(f"callbacks: {name} needs a module with a student; {type(pl_module).__name__} has none")
    return student
