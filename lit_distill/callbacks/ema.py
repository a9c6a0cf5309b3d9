"""An exponential moving average of the student."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from lit_distill.callbacks.averaging import follow, is_half, like, rank, tensors, whole
from lit_distill.callbacks.student import student_of
from lit_distill.errors import InputError


class StudentEMA(L.Callback):
    r"""Keeps an exponential moving average of the student, and validates, tests and predicts with it.

    After every optimizer step (not every micro-batch of an accumulated one) the average :math:`\bar\theta` of
    parameters and buffers follows the student's :math:`\theta`:

    .. math:: \bar\theta \leftarrow d\,\bar\theta + (1 - d)\,\theta, \qquad
        d = \min\Big(\text{decay}, \frac{1 + t}{10 + t}\Big)

    at its update :math:`t`. Integer buffers are copied; half-precision tensors are averaged in float32, in which a
    thousandth of a change still counts. The student trains on untouched: its average takes its place for
    validation, testing and prediction only, at the price of one more copy of its weights meanwhile. Checkpoints
    hold both, so that a resumed run equals an uninterrupted one. The teacher is never touched.

    Under FSDP2 the average is sharded like the student, and gathered for checkpoints: one tensor at a time on the
    device, all of them in the memory of rank 0's host.

    Args:
        decay: How much of the average each update keeps, in [0, 1).
        warmup: Start with a smaller decay, which grows to ``decay``: the average forgets the untrained student sooner.
        every: Optimizer steps between updates.

    Raises:
        InputError: When an argument is out of range, the module has no student, or a checkpoint holds the average
            of another student.
    """

    def __init__(self, decay: float = 0.999, warmup: bool = True, every: int = 1) -> None:
        if not 0 <= decay < 1:
            raise InputError(f"decay: {decay} given to StudentEMA; accepted is a number in [0, 1)")
        if every < 1:
            raise InputError(f"every: {every} given to StudentEMA; accepted is a number of steps of at least 1")
        self.decay = decay
        self.warmup = warmup
        self.every = every
        self._average: dict[str, Tensor] | None = None
        self._parked: dict[str, Tensor] | None = None
        self._step = 0

    def averaged_student_state(self) -> dict[str, Tensor]:
        """The average by the student's own names, whole and on the CPU; empty before training.

        Under FSDP2 all ranks must call this together.
        """
        return {name: whole(value).cpu() for name, value in (self._average or {}).items()}

    @contextmanager
    def averaged(self, student: nn.Module) -> Iterator[None]:
        """Within this context the student holds its average.

        Args:
            student: The student that this callback has followed.
        """
        self._swap_in(student)
        try:
            yield
        finally:
            self._swap_out(student)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Check that there is a student, and forget the average of an earlier fit."""
        student_of(pl_module, self)
        if stage == "fit":
            self._average = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the average at the student's weights, unless a checkpoint brought one."""
        student = student_of(pl_module, self)
        if self._average is None:
            self._average = {
                name: value.to(torch.float32 if is_half(value) else value.dtype, copy=True)
                for name, value in tensors(student).items()
            }
        self._place(student)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember how many steps the optimizer had taken."""
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the average if the optimizer took a step."""
        updates = trainer.global_step // self.every
        if updates > self._step // self.every:
            decay = min(self.decay, (1 + updates) / (10 + updates)) if self.warmup else self.decay
            assert self._average is not None
            follow(self._average, tensors(student_of(pl_module, self)), decay)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the average in the student's place."""
        self._swap_in(student_of(pl_module, self))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the student's own weights back."""
        self._swap_out(student_of(pl_module, self))

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the average in the student's place."""
        self._swap_in(student_of(pl_module, self))

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the student's own weights back."""
        self._swap_out(student_of(pl_module, self))

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the average in the student's place."""
        self._swap_in(student_of(pl_module, self))

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the student's own weights back."""
        self._swap_out(student_of(pl_module, self))

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Put the student's own weights back, should a validation have been interrupted."""
        if self._parked is not None:
            self._swap_out(student_of(pl_module, self))

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the student's own weights even in the middle of a validation, as a cluster's signal handler does."""
        if self._parked is None:
            return
        student = student_of(pl_module, self)
        self._swap_out(student)
        weights = trainer.strategy.lightning_module_state_dict()
        checkpoint["state_dict"] = {
            name: value.clone() if isinstance(value, Tensor) else value for name, value in weights.items()
        }
        self._swap_in(student)

    def state_dict(self) -> dict[str, Any]:
        """The average, for the checkpoint."""
        average = self.averaged_student_state()
        # Every rank helps to gather, and only rank 0 writes.
        return {"average": average} if average and rank() == 0 else {}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Forget the average of the weights that are being replaced; :meth:`load_state_dict` may bring another."""
        self._average = None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the average from a checkpoint; it moves to its devices when it is first used."""
        self._average = state_dict["average"]

    @torch.no_grad()
    def _swap_in(self, student: nn.Module) -> None:
        if self._average is None:
            return
        self._place(student)
        live = tensors(student)
        self._parked = {name: value.clone() for name, value in live.items()}
        for name, value in live.items():
            value.copy_(self._average[name])

    @torch.no_grad()
    def _swap_out(self, student: nn.Module) -> None:
        if self._parked is None:
            return
        for name, value in tensors(student).items():
            value.copy_(self._parked[name])
        self._parked = None

    def _place(self, student: nn.Module) -> None:
        assert self._average is not None
        live = tensors(student)
        if odd := sorted(live.keys() ^ self._average.keys()):
            raise InputError(
                f"ckpt_path: its StudentEMA averaged another student ({odd[0]} is in only one of the two); "
                "resume with the same student, or without StudentEMA"
            )
        self._average = {name: like(value, live[name]) for name, value in self._average.items()}
