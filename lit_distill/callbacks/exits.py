"""How right the exits of a network are."""

from typing import Any

import lightning as L
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from lit_distill.callbacks.student import student_of
from lit_distill.core.classification import ClassificationModule
from lit_distill.core.taps import Taps
from lit_distill.errors import InputError
from lit_distill.models import MultiExit


class ExitAccuracy(L.Callback):
    """Logs the accuracy of each of the student's exits in validation and test, beside its own.

    Logged as ``val/acc_<exit>`` and ``test/acc_<exit>``, with the exit's path but for a leading ``exits.``: what
    :class:`~lit_distill.models.MultiExit` calls ``early`` is ``val/acc_early``.

    Args:
        exits: Paths of the student's modules that give logits. Default: all exits of a ``MultiExit``.

    Raises:
        InputError: When a path names no submodule, or none are given and the student is no ``MultiExit``, or the
            module does not classify.
    """

    def __init__(self, exits: list[str] | None = None) -> None:
        self.exits = exits
        self.taps: Taps | None = None
        self.metrics: dict[str, MulticlassAccuracy] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Tap the student once, whatever stages follow."""
        if self.taps is not None:
            return
        student = student_of(pl_module, self)
        if not isinstance(pl_module, ClassificationModule):
            raise InputError(
                f"callbacks: ExitAccuracy needs a module that classifies; {type(pl_module).__name__} does not"
            )
        if self.exits is None and not isinstance(student, MultiExit):
            raise InputError(
                f"exits: not given to ExitAccuracy, and {type(student).__name__} is no MultiExit that names its own"
            )
        paths = self.exits or [f"exits.{name}" for name in student.paths]  # type: ignore[union-attr]
        self.taps = Taps(student, paths, "student")

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Let go of a training step's activations."""
        self._seen()

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin anew."""
        self._begin(pl_module)

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin anew."""
        self._begin(pl_module)

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Compare what the exits have just answered with the labels."""
        self._update(batch)

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Compare what the exits have just answered with the labels."""
        self._update(batch)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the accuracies over the whole validation set."""
        self._log(pl_module, "val")

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the accuracies over the whole test set."""
        self._log(pl_module, "test")

    def _seen(self) -> dict[str, Tensor]:
        assert self.taps is not None
        return self.taps.pop()

    def _begin(self, pl_module: L.LightningModule) -> None:
        assert self.taps is not None
        classes = pl_module.num_classes
        self.metrics = {
            path: MulticlassAccuracy(classes, average="micro").to(pl_module.device)  # type: ignore[arg-type]
            for path in self.taps.paths
        }

    def _update(self, batch: Any) -> None:
        for path, logits in self._seen().items():
            self.metrics[path].update(logits.float(), batch[1])

    def _log(self, pl_module: L.LightningModule, stage: str) -> None:
        for path, metric in self.metrics.items():
            # the metric has gathered all ranks' samples; sync_dist says so to Lightning
            pl_module.log(f"{stage}/acc_{path.removeprefix('exits.')}", metric.compute(), sync_dist=True)
