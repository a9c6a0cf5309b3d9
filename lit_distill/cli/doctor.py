"""``lit-distill doctor``: a few steps of a preset, and what looks wrong."""

import resource
import sys
import time
import warnings
from typing import Any

import lightning as L
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lit_distill.cli.main import DistillCLI, cli, short_errors
from lit_distill.distiller import Distiller

STEPS = 10
VALIDATION_BATCHES = 5


def run(arguments: list[str]) -> int:
    """Examine a preset.

    Args:
        arguments: What follows ``lit-distill doctor``: the same as for ``fit``.

    Returns:
        0 when nothing looks wrong, 1 otherwise.
    """
    if "" not in sys.path:
        sys.path.insert(0, "")
    with short_errors():
        examined = cli(["fit", *arguments], DoctorCLI)
    assert isinstance(examined, DoctorCLI)
    return 1 if examined.examination.wrong else 0


class DoctorCLI(DistillCLI):
    """Runs a few steps instead of a fit, writing nothing."""

    def before_instantiate_classes(self) -> None:
        """Cut the run down to a few steps that leave nothing behind."""
        super().before_instantiate_classes()
        self.save_config_callback = None
        self.config[self.subcommand].trainer.update(
            {
                "max_steps": STEPS,
                "max_epochs": -1,
                "limit_val_batches": VALIDATION_BATCHES,
                "num_sanity_val_steps": 0,
                "val_check_interval": None,
                "check_val_every_n_epoch": None,
                "logger": False,
                "enable_checkpointing": False,
                "enable_progress_bar": False,
                "enable_model_summary": False,
            }
        )

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Leave out the callbacks that write files, and add the one that looks."""
        keys = self._parser(self.subcommand).callback_keys
        for key in ("student_file", "curves", "images"):
            keys.remove(key)
        self.examination = Examination()
        trainer = super().instantiate_trainer(**kwargs)
        trainer.callbacks.append(self.examination)  # type: ignore[attr-defined]
        return trainer

    def fit(self, model: L.LightningModule, datamodule: L.LightningDataModule, **kwargs: Any) -> None:
        """Run the steps and a short validation, and print what was seen."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.trainer.fit(model, datamodule=datamodule)
            self.trainer.validate(model, datamodule=datamodule, verbose=False)
        self.examination.show(self.trainer, model)

    def after_fit(self) -> None:
        """No report: nothing was trained."""


class Examination(L.Callback):
    """Notes shapes, terms, gradients, time and memory of a few training steps."""

    def __init__(self) -> None:
        self.layers: list[tuple[str, str, tuple[int, ...]]] = []
        self.values: dict[str, list[float]] = {}
        self.gradients: dict[str, list[float]] = {}
        self.without_gradient: list[str] = []
        self.inputs: tuple[float, float] = (0.0, 1.0)
        self.steps: list[float] = []
        self.teacher: list[float] = []
        self.wrong: list[str] = []

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Time the teacher, and note what the taps see."""
        if not isinstance(pl_module, Distiller):
            return
        teacher, forward = pl_module.teacher, pl_module.distill

        def begin(*_: Any) -> None:
            self.teacher_began = now(pl_module)

        def end(*_: Any) -> None:
            self.teacher.append(now(pl_module) - self.teacher_began)

        def watched(student: Any, said: Any, target: Tensor) -> dict[str, Tensor]:
            self.layers = [("student", path, tuple(x.shape)) for path, x in student.features.items()]
            self.layers += [("teacher", path, tuple(x.shape)) for path, x in said.features.items()]
            return forward(student, said, target)

        teacher.register_forward_pre_hook(begin)
        teacher.register_forward_hook(end)
        pl_module.distill = watched  # type: ignore[method-assign]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the inputs' scale, and start the clock."""
        x = batch[0]
        self.inputs = (float(x.float().mean()), float(x.float().std()))
        self.began = now(pl_module)
        self.looking = 0.0

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        """Note the size of each weighted term and of its gradient."""
        began = now(pl_module)
        parameters = [p for p in pl_module.student.parameters() if p.requires_grad]  # type: ignore[union-attr, operator]
        for name, term in pl_module.last_terms.items():  # type: ignore[union-attr, operator]
            self.values.setdefault(name, []).append(float(term.detach()))
            norm = 0.0
            if term.requires_grad:
                gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
                norm = float(torch.stack([g.float().norm() for g in gradients if g is not None] or [term * 0]).norm())
            self.gradients.setdefault(name, []).append(norm)
        self.looking = now(pl_module) - began

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Note parameters that nothing trains."""
        self.without_gradient = [n for n, p in pl_module.named_parameters() if p.requires_grad and p.grad is None]

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Stop the clock."""
        self.steps.append(now(pl_module) - self.began - self.looking)

    def show(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Print what was seen, and what looks wrong."""
        console = Console()
        if self.layers:
            table = Table("network", "layer", "shape", title="Layers", title_justify="left")
            for network, path, shape in self.layers:
                table.add_row(network, path or "(output)", str(shape))
            console.print(table)
        table = Table("term", "weighted value", "gradient norm", title="Terms, first step to last", title_justify="left")
        for name, values in self.values.items():
            norms = self.gradients[name]
            table.add_row(name, f"{values[0]:.4g} to {values[-1]:.4g}", f"{norms[0]:.3g} to {norms[-1]:.3g}")
        console.print(table)
        warm = self.steps[len(self.steps) // 2 :]  # the first steps allocate and, where asked to, compile
        seconds = sum(warm) / len(warm)
        console.print(f"Step: {1000 * seconds:.1f} ms without data loading", highlight=False)
        if self.teacher:
            teacher = self.teacher[len(self.steps) // 2 : len(self.steps)]
            share = sum(teacher) / len(teacher) / seconds
            console.print(f"Teacher's share of a step: {100 * share:.0f} %", highlight=False)
        console.print(f"Peak memory: {peak_memory(module):.0f} MiB", highlight=False)
        metrics = {name.removeprefix("val/"): float(v) for name, v in trainer.callback_metrics.items() if "val/" in name}
        if "teacher_acc" in metrics:
            accuracy = 100 * metrics["teacher_acc"]
            console.print(f"Teacher's accuracy on {VALIDATION_BATCHES} validation batches: {accuracy:.1f} %", highlight=False)
        self.wrong = self.findings(module, metrics)
        for finding in self.wrong:
            console.print(f"[bold]Looks wrong:[/bold] {finding}", highlight=False, soft_wrap=True)
        if not self.wrong:
            console.print("Nothing looks wrong.")

    def findings(self, module: L.LightningModule, metrics: dict[str, float]) -> list[str]:
        """What looks wrong, one line each."""
        found = []
        classes = getattr(module.trainer.datamodule, "num_classes", None)  # type: ignore[attr-defined]
        accuracy = metrics.get("teacher_acc")
        if classes and accuracy is not None and accuracy < 2 / classes:
            found.append(
                f"the teacher is at chance level ({100 * accuracy:.1f} % of {classes} classes): are its weights loaded, and "
                "its input size and normalisation those it was trained with (lit_distill.models.InputAdapter)?"
            )
        norms = {name: values[-1] for name, values in self.gradients.items()}
        weights = {name: module.weight_of(name) for name in norms}  # type: ignore[operator, union-attr]
        found += [
            f"the term {name} has no gradient for the student"
            for name, norm in norms.items()
            if norm == 0 and weights[name] != 0
        ]
        pulling = {name: norm for name, norm in norms.items() if norm > 0}
        if len(pulling) > 1:
            strong, weak = max(pulling, key=pulling.__getitem__), min(pulling, key=pulling.__getitem__)
            if pulling[strong] > 100 * pulling[weak]:
                found.append(
                    f"the gradient of {strong} is {pulling[strong] / pulling[weak]:.0f} times that of {weak}, which will "
                    f"hardly count; lower --model.losses.{strong}.weight or raise --model.losses.{weak}.weight"
                )
        if self.without_gradient:
            names = ", ".join(self.without_gradient[:3])
            found.append(
                f"{len(self.without_gradient)} trainable parameters get no gradient ({names}); under DDP this needs "
                "--trainer.strategy=ddp_find_unused_parameters_true"
            )
        mean, std = self.inputs
        if abs(mean) > 3 or not 0.1 < std < 10:
            found.append(f"inputs have mean {mean:.2f} and standard deviation {std:.2f}: are they normalised?")
        return found


def now(module: L.LightningModule) -> float:
    """Seconds on a clock, after a GPU has done what it was told."""
    if module.device.type == "cuda":
        torch.cuda.synchronize(module.device)
    return time.perf_counter()


def peak_memory(module: L.LightningModule) -> float:
    """Largest memory so far in MiB: the GPU's where there is one, else this process's."""
    if module.device.type == "cuda":
        return torch.cuda.max_memory_allocated(module.device) / 2**20
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / (2**20 if sys.platform == "darwin" else 2**10)
