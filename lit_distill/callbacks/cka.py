"""How alike two networks' layers are."""

from typing import Any

import lightning as L

from lit_distill.core.taps import Taps
from lit_distill.distiller import Distiller
from lit_distill.errors import InputError
from lit_distill.metrics import CKA
from lit_distill.models import default_layers, paired


class LayerCKA(L.Callback):
    """Logs the centred kernel alignment of pairs of layers on the validation set: 1 means alike up to a rotation.

    Logged as ``val/cka/<student layer>``. Shows where a student represents what its teacher does, whatever the
    widths of the two, and without a projector.

    Args:
        layers: Student module path to teacher module path. Default: the stages of both, paired by their position.

    Raises:
        InputError: When a path names no submodule, or the module has no teacher.
    """

    def __init__(self, layers: dict[str, str] | None = None) -> None:
        if layers is not None and not layers:
            raise InputError("layers: LayerCKA got none; accepted are {student path: teacher path}")
        self.layers = layers or {}
        self.metrics: dict[str, CKA] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Tap both networks once, whatever stages follow."""
        if self.metrics:
            return
        if not isinstance(pl_module, Distiller) or pl_module.teacher is None:
            raise InputError(
                f"callbacks: LayerCKA compares a student with a teacher; this {type(pl_module).__name__} has none"
            )
        if not self.layers:
            self.layers = paired(default_layers(pl_module.student), default_layers(pl_module.teacher.module))
        self.student = Taps(pl_module.student, self.layers, "student")
        self.teacher = Taps(pl_module.teacher.module, self.layers.values(), "teacher")
        self.metrics = {path: CKA() for path in self.layers}

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Let go of a training step's activations."""
        self.student.pop()
        self.teacher.pop()

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Compare what both networks have just computed."""
        student, teacher = self.student.pop(), self.teacher.pop()
        for path, metric in self.metrics.items():
            metric.to(pl_module.device).update(student[path], teacher[self.layers[path]])

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the alignment over the whole validation set, and begin anew."""
        for path, metric in self.metrics.items():
            pl_module.log(f"val/cka/{path}", metric.compute())
            metric.reset()
