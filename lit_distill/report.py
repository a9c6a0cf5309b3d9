"""What came out of a run, as numbers that can be compared."""

import csv
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer
from rich.console import Console
from rich.table import Table
from torch import nn

from lit_distill.callbacks import StudentFile
from lit_distill.callbacks.folder import run_folder
from lit_distill.core.classification import ClassificationModule
from lit_distill.distiller import Distiller
from lit_distill.models import macs
from lit_distill.models.recipe import trained
from lit_distill.student_file import load_card, update_card

Row = tuple[str, dict[str, float]]


@dataclass
class Baseline:
    """The student trained alone, which the distilled one is compared with.

    Args:
        path: Its student file (``.safetensors``); its card beside it holds what it reached.
        recipe: Preset that trains it when the file is missing.
    """

    path: str | None = None
    recipe: str | None = None

    def __post_init__(self) -> None:
        # Now, and not after the fit: a typo in the recipe should not cost a training run.
        if self.path is not None:
            trained(self.path, self.recipe)

    def results(self) -> dict[str, dict[str, float]]:
        """Test metrics of the last and of the validation-selected weights; empty when none were measured."""
        if self.path is None:
            return {}
        return load_card(self.path).get("results", {})


def report(
    trainer: Trainer, module: Any, datamodule: LightningDataModule | None, baseline: Baseline
) -> dict[str, dict[str, float]]:
    """Test the last and the validation-selected weights, print the comparison, and add it to the student's card.

    Args:
        trainer: The trainer of the finished fit.
        module: What it trained.
        datamodule: What it was trained on.
        baseline: The student trained alone.

    Returns:
        Test metrics by name, of ``last`` and, where a checkpoint was selected by validation, ``selected``.
    """
    if not isinstance(module, ClassificationModule) or datamodule is None:
        return {}
    results = {"last": tested(trainer, module, datamodule, None)}
    best = getattr(trainer.checkpoint_callback, "best_model_path", "")
    if best:
        results["selected"] = tested(trainer, module, datamodule, best)
    folder = run_folder(trainer)
    student_file = next((c.target(trainer) for c in trainer.callbacks if isinstance(c, StudentFile)), None)  # type: ignore[attr-defined]
    if trainer.is_global_zero:
        if student_file is not None and student_file.exists():
            update_card(student_file, {"results": results})
        show(module, results, baseline.results(), folder, student_file)
    return results


def tested(
    trainer: Trainer, module: ClassificationModule, datamodule: LightningDataModule, checkpoint: str | None
) -> dict[str, float]:
    """Test metrics without their prefix, of the weights as they are or of a checkpoint's."""
    (metrics,) = trainer.test(module, datamodule, ckpt_path=checkpoint, verbose=False, weights_only=True)
    return {name.removeprefix("test/"): float(value) for name, value in metrics.items()}


def show(
    module: ClassificationModule,
    results: dict[str, dict[str, float]],
    alone: dict[str, dict[str, float]],
    folder: Path,
    student_file: Path | None,
) -> None:
    """Print the table of a finished run, and where its files are."""
    table = Table(title="Test accuracy", title_justify="left")
    table.add_column("", no_wrap=True)
    for column in ("last", "selected", "agreement", "parameters", "MACs"):
        table.add_column(column, justify="right")
    student_size = size(module.student, module.input_shape)
    if isinstance(module, Distiller):
        teacher = size(module.teacher.module, module.input_shape)
        accuracy = percent(results["last"].get("teacher_acc"))
        table.add_row("teacher", accuracy, "", "", f"{teacher[0]:,}", f"{teacher[1]:,}")
        if alone:
            table.add_row("student alone", *accuracies(alone), "", *(f"{n:,}" for n in student_size))
        agreement = percent(results["last"].get("agreement"))
        table.add_row("student distilled", *accuracies(results), agreement, *(f"{n:,}" for n in student_size))
    else:
        table.add_row("student", *accuracies(results), "", *(f"{n:,}" for n in student_size))
    console = Console()
    console.print(table)
    if isinstance(module, Distiller):
        ratios = [t / s if s else float("nan") for t, s in zip(teacher, student_size, strict=True)]
        console.print(
            f"Compression: {ratios[0]:.1f}x fewer parameters, {ratios[1]:.1f}x fewer multiply-adds (MACs) than the teacher"
        )
    console.print("last: after the last step; selected: the best on validation; agreement: with the teacher.")
    console.print(f"Run folder: {folder} (config, metrics, curves, checkpoints)", soft_wrap=True)
    if student_file is not None:
        console.print(f"Student: {student_file} (last weights; its card is the .json beside it)", soft_wrap=True)
        console.print(
            f"Load it: lit_distill.models.restored(<{type(module.student).__name__}>, path={str(student_file)!r})",
            soft_wrap=True,
            highlight=False,
        )


def accuracies(results: dict[str, dict[str, float]]) -> tuple[str, str]:
    """Last and selected accuracy as text."""
    return percent(results.get("last", {}).get("acc")), percent(results.get("selected", {}).get("acc"))


def percent(value: float | None) -> str:
    """A share as a percentage with two decimals; a dash for none."""
    return "-" if value is None else f"{100 * value:.2f} %"


def size(network: nn.Module, input_shape: tuple[int, ...] | None) -> tuple[int, int]:
    """Parameters, and multiply-adds of one input."""
    assert input_shape is not None
    return sum(p.numel() for p in network.parameters()), macs(network, input_shape)


def write_predictions(trainer: Trainer) -> None:
    """Write the predicted class and its probability for each sample of ``trainer.predict`` as CSV, and say where."""
    batches = trainer.predict_loop.predictions
    if not batches or not trainer.is_global_zero:
        return
    folder = run_folder(trainer)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "predictions.csv"
    probabilities = torch.cat([batch.float().cpu() for batch in batches]).softmax(-1)  # type: ignore[union-attr]
    values, classes = probabilities.max(-1)
    partial = file.with_suffix(".csv.partial")
    with partial.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("sample", "class", "probability"))
        writer.writerows(
            (i, c, f"{v:.6f}") for i, (c, v) in enumerate(zip(classes.tolist(), values.tolist(), strict=True))
        )
    os.replace(partial, file)
    Console().print(f"Predictions: {file} ({len(classes)} samples)", soft_wrap=True)
