"""What a few training steps show of a run."""

import time
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lit_distill.core.classification import ClassificationModule
from lit_distill.core.outputs import Outputs
from lit_distill.distiller import Distiller


class Examination(L.Callback):
    """Notes shapes, terms, gradients and times of a few training steps, and the numbers of a short validation.

    Attributes:
        layers: Network, path and shape of every tapped activation.
        values: Weighted value of each term at each step.
        norms: Norm of the gradient of each weighted term with respect to the student, at each step.
        untrained: Names of trainable parameters that got no gradient.
        inputs: Mean and standard deviation of a batch.
        steps: Seconds of each step, without loading data.
        teacher: Seconds of each forward pass of the teacher.
        samples: How many samples were validated on.
    """

    def __init__(self) -> None:
        self.layers: list[tuple[str, str, tuple[int, ...]]] = []
        self.values: dict[str, list[float]] = {}
        self.norms: dict[str, list[float]] = {}
        self.untrained: list[str] = []
        self.inputs = (0.0, 1.0)
        self.steps: list[float] = []
        self.teacher: list[float] = []
        self.samples = 0
        self._began = self._teacher_began = self._looked = 0.0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Time the teacher, and note what the taps see."""
        if not isinstance(pl_module, Distiller):
            return
        distill = pl_module.distill

        def begin(*_: Any) -> None:
            self._teacher_began = now(pl_module)

        def end(*_: Any) -> None:
            self.teacher.append(now(pl_module) - self._teacher_began)

        def watched(student: Outputs, teacher: Outputs, target: Tensor) -> dict[str, Tensor]:
            said = (("student", student), ("teacher", teacher))
            self.layers = [(name, path, tuple(x.shape)) for name, out in said for path, x in out.features.items()]
            return distill(student, teacher, target)

        if pl_module.teacher is not None:
            pl_module.teacher.register_forward_pre_hook(begin)
            pl_module.teacher.register_forward_hook(end)
        pl_module.distill = watched  # type: ignore[method-assign]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the inputs' scale, and start the clock."""
        x = batch[0].float()
        self.inputs = (float(x.mean()), float(x.std()))
        self._looked = 0.0
        self._began = now(pl_module)

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        """Note the size of each weighted term and of its gradient."""
        if not isinstance(pl_module, ClassificationModule):
            return
        began = now(pl_module)
        parameters = [p for p in pl_module.student.parameters() if p.requires_grad]
        for name, term in pl_module.last_terms.items():
            self.values.setdefault(name, []).append(float(term.detach()))
            norm = 0.0
            if term.requires_grad:
                gradients = torch.autograd.grad(
                    term, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
                )
                norm = float(torch.stack([g.float().norm() for g in gradients]).norm())
            self.norms.setdefault(name, []).append(norm)
        self._looked = now(pl_module) - began

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Note parameters that nothing trains."""
        self.untrained = [n for n, p in pl_module.named_parameters() if p.requires_grad and p.grad is None]

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Stop the clock."""
        self.steps.append(now(pl_module) - self._began - self._looked)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the first half of the times: the first steps allocate and, where asked to, compile."""
        half = len(self.steps) // 2
        self.steps, self.teacher = self.steps[half:], self.teacher[half : len(self.steps)]

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Count the samples."""
        self.samples += len(batch[0])


def now(module: L.LightningModule) -> float:
    """Seconds on a clock, after a GPU has done what it was told."""
    if module.device.type == "cuda":
        torch.cuda.synchronize(module.device)
    return time.perf_counter()
