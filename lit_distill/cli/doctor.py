"""``lit-distill doctor``: a few steps of a preset, and what looks wrong."""

import math
import resource
import sys
from typing import Any

import lightning as L
import torch
from rich.console import Console
from rich.table import Table

from lit_distill.cli.examination import Examination
from lit_distill.cli.trainer import DistillCLI, cli, short_errors
from lit_distill.core.classification import ClassificationModule

STEPS = 10
VALIDATION_BATCHES = 5

#: Settings of the Trainer for a run that is short, on one device, and leaves nothing behind.
SHORT = {
    "max_epochs": 1,
    "max_steps": -1,
    "min_epochs": None,
    "min_steps": None,
    "limit_train_batches": STEPS,
    "limit_val_batches": VALIDATION_BATCHES,
    "num_sanity_val_steps": 0,
    "val_check_interval": None,
    "check_val_every_n_epoch": 1,
    "strategy": "auto",
    "devices": 1,
    "num_nodes": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def run(arguments: list[str]) -> int:
    """Examine a preset.

    Args:
        arguments: What follows ``lit-distill doctor``: the same as for ``fit``.

    Returns:
        0 when nothing looks wrong, 1 otherwise.
    """
    with short_errors():
        examined = cli(["fit", *arguments], DoctorCLI)
    assert isinstance(examined, DoctorCLI)
    module, examination = examined.model, examined.examination
    metrics = {n.removeprefix("val/"): float(v) for n, v in examined.trainer.callback_metrics.items() if "val/" in n}
    console = Console(soft_wrap=True, highlight=False)
    show(console, examination, module, metrics)
    wrong = findings(examination, module, metrics, getattr(examined.datamodule, "num_classes", None))
    for finding in wrong:
        console.print(f"[bold]Looks wrong:[/bold] {finding}")
    if not wrong:
        console.print("Nothing looks wrong.")
    return 1 if wrong else 0


class DoctorCLI(DistillCLI):
    """Runs a few steps and a short validation instead of a fit, writing nothing."""

    def before_instantiate_classes(self) -> None:
        """Cut the run short; the student alone is of no interest, and not trained if it is missing."""
        super().before_instantiate_classes()
        self.save_config_callback = None
        config = self.config[self.subcommand]
        for name, value in SHORT.items():
            config.trainer[name] = value
        config.baseline.path = None

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Leave out the callbacks that write files, and add the one that looks."""
        for key in ("student_file", "curves", "images"):
            self._parser(self.subcommand).callback_keys.remove(key)
        self.examination = Examination()
        trainer = super().instantiate_trainer(**kwargs)
        trainer.callbacks.append(self.examination)  # type: ignore[attr-defined]
        return trainer

    def after_fit(self) -> None:
        """No report: nothing was trained."""


def show(console: Console, seen: Examination, module: L.LightningModule, metrics: dict[str, float]) -> None:
    """Print what was seen."""
    if seen.layers:
        table = Table("network", "layer", "shape", title="Layers", title_justify="left")
        for network, path, shape in seen.layers:
            table.add_row(network, path or "(output)", str(shape))
        console.print(table)
    title = "Terms, first step to last"
    table = Table("term", "weighted value", "gradient norm", title=title, title_justify="left")
    for name, values in seen.values.items():
        norms = seen.norms[name]
        table.add_row(name, f"{values[0]:.4g} to {values[-1]:.4g}", f"{norms[0]:.3g} to {norms[-1]:.3g}")
    console.print(table)
    seconds = sum(seen.steps) / len(seen.steps)
    share = f", of which the teacher {100 * sum(seen.teacher) / sum(seen.steps):.0f} %" if seen.teacher else ""
    console.print(f"Step: {1000 * seconds:.1f} ms without data loading{share}")
    console.print(f"Peak memory: {peak_memory(module):.0f} MiB")
    if "teacher_acc" in metrics:
        console.print(f"Teacher's accuracy on {seen.samples} validation samples: {100 * metrics['teacher_acc']:.1f} %")


def findings(seen: Examination, module: L.LightningModule, metrics: dict[str, float], classes: int | None) -> list[str]:
    """What looks wrong, one line each.

    Args:
        seen: What the steps showed.
        module: The module that took them.
        metrics: Those of the validation.
        classes: How many there are in the data.
    """
    found = []
    accuracy = metrics.get("teacher_acc")
    if classes and accuracy is not None and accuracy < likely_by_chance(classes, seen.samples):
        found.append(
            f"the teacher is at chance level ({100 * accuracy:.1f} % of {classes} classes): are its weights loaded, "
            "and its input size and normalisation those it was trained with (lit_distill.models.InputAdapter)?"
        )
    norms = {name: values[-1] for name, values in seen.norms.items()}
    found += [
        f"the term {name} has no gradient for the student"
        for name, norm in norms.items()
        if norm == 0 and isinstance(module, ClassificationModule) and module.weight_of(name) != 0
    ]
    pulling = {name: norm for name, norm in norms.items() if norm > 0}
    if len(pulling) > 1:
        strong, weak = max(pulling, key=pulling.__getitem__), min(pulling, key=pulling.__getitem__)
        if pulling[strong] > 100 * pulling[weak]:
            found.append(
                f"the gradient of {strong} is {pulling[strong] / pulling[weak]:.0f} times that of {weak}, which will "
                f"hardly count; lower --model.losses.{strong}.weight or raise --model.losses.{weak}.weight"
            )
    if seen.untrained:
        names = ", ".join(seen.untrained[:3])
        found.append(
            f"{len(seen.untrained)} trainable parameters get no gradient ({names}); under DDP this needs "
            "--trainer.strategy=ddp_find_unused_parameters_true"
        )
    mean, std = seen.inputs
    if abs(mean) > 3 or not 0.1 < std < 10:
        found.append(f"inputs have mean {mean:.2f} and standard deviation {std:.2f}: are they normalised?")
    return found


def likely_by_chance(classes: int, samples: int) -> float:
    """An accuracy that guessing reaches on so many samples, but hardly ever exceeds: three deviations above its mean.

    Example:
        >>> round(likely_by_chance(10, 144), 3)
        0.175
    """
    share = 1 / classes
    return share + 3 * math.sqrt(share * (1 - share) / samples) if samples else 0.0


def peak_memory(module: L.LightningModule) -> float:
    """Largest memory so far in MiB: the GPU's where there is one, else this process's."""
    if module.device.type == "cuda":
        return torch.cuda.max_memory_allocated(module.device) / 2**20
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / (2**20 if sys.platform == "darwin" else 2**10)
