"""Temperatures that change during training.

A temperature that follows a plan needs no modifier: the callback ``Schedule`` moves it, with the path
``losses.kd.temperature`` for a term and ``losses.kd.loss.temperature`` for one within a modifier. The modifiers that
stand on this file find the temperature themselves.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.modifiers.base import Modifier


class TemperatureModifier(Modifier):
    """A modifier that decides the temperature of the term that it stands around, other modifiers between them or not.

    A subclass implements :meth:`current`. The term's own temperature has no effect, and stands again after each
    call.

    Args:
        loss: The term whose temperature is set, alone or within other modifiers.

    Raises:
        InputError: If the term has no temperature, or another modifier sets it.
    """

    def __init__(self, loss: LogitLoss, **kwargs: Any) -> None:
        super().__init__(loss, **kwargs)
        self._tempered()

    def current(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """The temperature for this batch, a tensor without axes.

        Args:
            student: What the student said.
            teacher: What the teacher said.
            target: Class indices ``(B,)`` or class probabilities ``(B, C)``.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement current(student, teacher, target)")

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """The term within, at the temperature of this batch."""
        with _set(self._tempered(), self.current(student, teacher, target)):
            return super().forward(student, teacher, target)

    def _tempered(self) -> LogitLoss:
        """The term at the core, looked up each time: a second reference to it would copy it in every checkpoint."""
        loss, name = self.loss, type(self).__name__
        while isinstance(loss, Modifier):
            if isinstance(loss, TemperatureModifier):
                raise InputError(f"loss must have a temperature that {name} alone sets, got {type(loss).__name__}")
            loss = loss.loss
        if not hasattr(loss, "temperature"):
            accepted = ", ".join(sorted(set(_with_temperature(LogitLoss))))
            raise InputError(f"loss must have a temperature for {name} to set ({accepted}), got {type(loss).__name__}")
        return loss


@contextmanager
def _set(loss: Any, temperature: Tensor) -> Iterator[None]:
    # its own comes back: a tensor of the last step's graph could neither be deep-copied nor freed
    own, loss.temperature = loss.temperature, temperature
    try:
        yield
    finally:
        loss.temperature = own


def _with_temperature(kind: type[LogitLoss]) -> Iterator[str]:
    for term in kind.__subclasses__():
        if "temperature" in inspect.signature(term).parameters:
            yield term.__name__
        yield from _with_temperature(term)
