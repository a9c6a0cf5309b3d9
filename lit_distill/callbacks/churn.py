"""What a new model changes in the predictions of the one that it replaces."""

from typing import Any

import lightning as L

from lit_distill.core.taps import Taps
from lit_distill.distiller import Distiller
from lit_distill.errors import InputError
from lit_distill.metrics import Churn

WHOLE = ""  # the path of a network in itself


class ChurnReport(L.Callback):
    """Logs how often the student predicts otherwise than its teacher, a model in use that it is to replace.

    Logged in validation and test as ``val/churn``, ``val/good_churn`` (the student alone is right) and
    ``val/bad_churn`` (the teacher alone is); see :class:`lit_distill.metrics.Churn`. Neither network runs once more.

    Raises:
        InputError: When the module has no teacher, or one that answers other classes.
    """

    def __init__(self) -> None:
        self.metric = Churn()
        self.student: Taps | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Listen to both networks, whatever stages follow."""
        if self.student is not None:
            return
        if not isinstance(pl_module, Distiller) or pl_module.teacher is None:
            raise InputError(
                f"callbacks: ChurnReport compares a student with a teacher; this {type(pl_module).__name__} has none"
            )
        self.student = Taps(pl_module.student, [WHOLE], "student")
        self.teacher = Taps(pl_module.teacher.module, [WHOLE], "teacher")

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Let go of a training step's logits."""
        self._said()

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Compare what both networks have just said."""
        self._add(pl_module, batch)

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Compare what both networks have just said."""
        self._add(pl_module, batch)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the shares over the whole validation set, and begin anew."""
        self._log(pl_module, "val")

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the shares over the whole test set, and begin anew."""
        self._log(pl_module, "test")

    def _said(self) -> list[Any]:
        assert self.student is not None
        return [taps.pop().get(WHOLE) for taps in (self.student, self.teacher)]

    def _add(self, pl_module: L.LightningModule, batch: Any) -> None:
        student, teacher = self._said()
        if teacher is None:  # Distiller does not ask a teacher whose answers compare with nothing
            raise InputError("callbacks: ChurnReport compares predictions; this teacher answers other classes")
        self.metric.to(pl_module.device).update(student, teacher, batch[1])

    def _log(self, pl_module: L.LightningModule, stage: str) -> None:
        pl_module.log_dict({f"{stage}/{name}": share for name, share in self.metric.compute().items()})
        self.metric.reset()
