"""Numbers that change during training: weights of terms, temperatures, dropout."""

import math
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, Literal

import lightning as L
from torch import nn

from lit_distill.errors import InputError


class _OnAttribute(L.Callback):
    """Sets one number of the module before every batch."""

    def __init__(self, path: str) -> None:
        self.path = path

    def value(self, trainer: L.Trainer) -> float:
        """What the number is now."""
        raise NotImplementedError

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Check the path, and that nobody else sets this number."""
        if stage != "fit":
            return
        _read(pl_module, self.path)
        same = [c for c in trainer.callbacks if isinstance(c, _OnAttribute) and c.path == self.path]  # type: ignore[attr-defined]
        if len(same) > 1:
            names = " and ".join(type(callback).__name__ for callback in same)
            raise InputError(f"path: {self.path} is set by {names} at once; accepted is one callback for each number")

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the number for this step."""
        owner, name = _owner(pl_module, self.path)
        setattr(owner, name, self.value(trainer))


class Schedule(_OnAttribute):
    r"""Moves a number of the module from ``start`` to ``end`` as training goes on.

    With :math:`p` the fraction of all optimizer steps taken so far and
    :math:`q = \mathrm{clip}\big(\frac{p - \text{begin}}{\text{until} - \text{begin}}, 0, 1\big)`, the number is

    .. math:: \text{start} + s(q)\,(\text{end} - \text{start}), \qquad s_\text{linear}(q) = q, \quad
        s_\text{cosine}(q) = \frac{1 - \cos \pi q}{2}, \quad s_\text{constant}(q) = [q = 1]

    It depends on the step alone, so that a resumed run needs no memory of it.

    Args:
        path: Dotted path of the number in the module, e.g. ``losses.kd.weight`` or ``losses.kd.temperature``.
        start: The number at ``begin`` and before.
        end: The number at ``until`` and after.
        shape: How it moves between the two; ``constant`` holds ``start`` and jumps to ``end`` at ``until``.
        begin: Fraction of training at which it starts to move, in [0, 1].
        until: Fraction of training at which it arrives, in [0, 1] and not before ``begin``.

    Raises:
        InputError: When ``path`` names no number of the module, another callback sets it too, the fractions are out
            of order, or training has no end.

    Example:
        >>> schedule = Schedule("losses.kd.weight", start=1.0, end=0.0, begin=0.5)
        >>> [schedule.at(progress) for progress in (0.0, 0.5, 0.75, 1.0)]
        [1.0, 1.0, 0.5, 0.0]
    """

    def __init__(
        self,
        path: str,
        start: float,
        end: float,
        shape: Literal["linear", "cosine", "constant"] = "linear",
        begin: float = 0.0,
        until: float = 1.0,
    ) -> None:
        super().__init__(path)
        if shape not in ("linear", "cosine", "constant"):
            raise InputError(f"shape: {shape!r} given to Schedule; accepted are linear, cosine and constant")
        if not 0 <= begin <= until <= 1:
            raise InputError(f"begin, until: {begin}, {until} given to Schedule; accepted are 0 <= begin <= until <= 1")
        self.start = start
        self.end = end
        self.shape = shape
        self.begin = begin
        self.until = until

    def at(self, progress: float) -> float:
        """The number after a fraction of training.

        Args:
            progress: Fraction of all optimizer steps, in [0, 1].
        """
        if progress >= self.until:
            return self.end
        if progress <= self.begin:
            return self.start
        q = (progress - self.begin) / (self.until - self.begin)
        moved = {"linear": q, "cosine": (1 - math.cos(math.pi * q)) / 2, "constant": 0.0}[self.shape]
        return self.start + moved * (self.end - self.start)

    def value(self, trainer: L.Trainer) -> float:
        """The number for the next step."""
        return self.at(trainer.global_step / self._steps)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Find out how long training is."""
        steps = trainer.estimated_stepping_batches
        if steps == math.inf or steps <= 0:
            raise InputError(
                f"max_steps: training has no end, so {self.path} has no schedule; set trainer.max_epochs for a data "
                "set with a length, trainer.max_steps otherwise"
            )
        self._steps = steps


class WarmUp(_OnAttribute):
    r"""Grows a number of the module linearly to its own value over the first epochs.

    .. math:: v_e = v \cdot \min\Big(\frac{e}{\text{epochs}}, 1\Big)

    in epoch :math:`e = 1, 2, \dots`, where :math:`v` is the value before training; after training it is :math:`v`
    again. DKD warms its weight up over 20 epochs (``megvii-research/mdistiller:mdistiller/distillers/DKD.py``).

    Args:
        path: Dotted path of the number in the module, e.g. ``losses.dkd.weight``.
        epochs: The epoch, counted from 1, that is the first with the full value.

    Raises:
        InputError: When ``path`` names no number of the module, another callback sets it too, or ``epochs`` is
            below 1.
    """

    def __init__(self, path: str, epochs: int) -> None:
        super().__init__(path)
        if epochs < 1:
            raise InputError(f"epochs: {epochs} given to WarmUp; accepted is a number of epochs of at least 1")
        self.epochs = epochs
        self._full: float | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Remember the full value."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._full = _read(pl_module, self.path)

    def value(self, trainer: L.Trainer) -> float:
        """The number in this epoch."""
        assert self._full is not None
        return self._full * min((trainer.current_epoch + 1) / self.epochs, 1)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Set the full value again, so that another ``fit`` of this module starts from it."""
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Set the full value again."""
        if self._full is not None:
            owner, name = _owner(pl_module, self.path)
            setattr(owner, name, self._full)
            self._full = None


def _owner(module: nn.Module, path: str) -> tuple[Any, str]:
    *parents, name = path.split(".")
    owner: Any = module
    for parent in parents:
        owner = getattr(owner, parent)
    return owner, name


def _read(module: nn.Module, path: str) -> float:
    try:
        owner, name = _owner(module, path)
        value = getattr(owner, name)
    except AttributeError:
        value = None
    if isinstance(value, bool) or not isinstance(value, int | float):
        known = sorted(_numbers(module))
        near = get_close_matches(path, known, n=5, cutoff=0.5) or [p for p in known if p.startswith("losses.")]
        raise InputError(
            f"path: {path!r} names no number of {type(module).__name__}; near are {', '.join(near[:10]) or 'none'}"
        )
    return float(value)


def _numbers(module: nn.Module) -> Iterator[str]:
    for prefix, child in module.named_modules():
        for name, value in vars(child).items():
            if isinstance(value, int | float) and not isinstance(value, bool) and not name.startswith("_"):
                yield f"{prefix}.{name}" if prefix else name
