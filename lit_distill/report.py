"""What came out of a run, as numbers that can be compared."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from rich.console import Console
from rich.table import Table
from torch import nn

from lit_distill.callbacks import StudentFile
from lit_distill.callbacks.folder import run_folder
from lit_distill.core.classification import ClassificationModule
from lit_distill.dense_predictions import write_boxes, write_masks
from lit_distill.distiller import Distiller
from lit_distill.loading import loading
from lit_distill.models import macs
from lit_distill.models.recipe import trained
from lit_distill.mutual import MutualDistiller, named
from lit_distill.student_file import card_path, load_card, update_card, write_whole

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

    def card(self) -> dict[str, Any]:
        """The student's card, with its test metrics under ``results``; empty when there is no such student."""
        return {} if self.path is None else load_card(self.path)


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
    results = {"last": measured(trainer, module, datamodule, None)}
    best = getattr(trainer.checkpoint_callback, "best_model_path", "")
    if best:
        results["selected"] = measured(trainer, module, datamodule, best)
    folder = run_folder(trainer)
    student_file = next((c.target(trainer) for c in trainer.callbacks if isinstance(c, StudentFile)), None)  # type: ignore[attr-defined]
    sizes = {"student": size(module.student, module.input_shape)}  # on every rank: the networks may be sharded
    if isinstance(module, Distiller) and module.teacher is not None:
        sizes["teacher"] = size(module.teacher.module, module.input_shape)
    if isinstance(module, MutualDistiller):
        sizes |= {f"peer {name}": size(peer, module.input_shape) for name, peer in module.peers.items()}
    if trainer.is_global_zero:
        if student_file is not None and student_file.exists():
            send(trainer, student_file, update_card(student_file, {"results": results}))
        show(module, results, baseline.card(), sizes, folder, student_file)
    return results


def send(trainer: Trainer, student_file: Path, card: dict[str, Any]) -> None:
    """Hand the student's card to the loggers; Weights & Biases gets the weights too, as an artifact.

    Args:
        trainer: The trainer of the finished fit.
        student_file: The student's weights.
        card: Its card.
    """
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            # Markdown shows an indented block as it is.
            text = "".join(f"    {line}\n" for line in json.dumps(card, indent=2).splitlines())
            logger.experiment.add_text("student", text, global_step=card["global_step"])
            logger.experiment.flush()
        elif isinstance(logger, WandbLogger):
            import wandb  # slow, and only a user of W&B has to wait for it

            artifact = wandb.Artifact(f"student-{logger.experiment.id}", type="model", metadata=card)
            artifact.add_file(str(student_file))
            artifact.add_file(str(card_path(student_file)))
            logger.experiment.log_artifact(artifact)


def measured(
    trainer: Trainer, module: ClassificationModule, datamodule: LightningDataModule, checkpoint: str | None
) -> dict[str, float]:
    """Test metrics without their prefix, of the weights as they are or of a checkpoint's."""
    (metrics,) = trainer.test(module, datamodule, ckpt_path=checkpoint, verbose=False, weights_only=True)
    return {name.removeprefix("test/"): float(value) for name, value in metrics.items()}


def show(
    module: ClassificationModule,
    results: dict[str, dict[str, float]],
    alone: dict[str, Any],
    sizes: dict[str, tuple[int, int]],
    folder: Path,
    student_file: Path | None,
) -> None:
    """Print the table of a finished run, and where its files are."""
    table = Table(title=f"Test {module.measure_name}", title_justify="left")
    table.add_column("", no_wrap=True)
    for column in ("last", "selected", "agreement", "parameters", "MACs"):
        table.add_column(column, justify="right")
    student_size = sizes["student"]
    if teacher := sizes.get("teacher"):
        accuracy = percent(results["last"].get(f"teacher_{module.measure}"))
        table.add_row("teacher", accuracy, "", "", f"{teacher[0]:,}", f"{teacher[1]:,}")
    if alone.get("results"):
        # Its MACs are not in its card: they are ours when it is the same network, without heads for distillation.
        same = alone["parameters"] == student_size[0]
        size_alone = f"{alone['parameters']:,}", f"{student_size[1]:,}" if same else ""
        table.add_row("student alone", *reached(alone["results"], module.measure), "", *size_alone)
    agreement = percent(results["last"].get("agreement")) if teacher else ""
    name = "student distilled" if alone or teacher else "student"
    table.add_row(name, *reached(results, module.measure), agreement, *(f"{n:,}" for n in student_size))
    for kind, what in (("int8", "as 8-bit integers"), ("float", "without rounding")):
        if f"{kind}_{module.measure}" in results["last"]:  # the student is quantised
            table.add_row(f"  {what}", *reached(results, f"{kind}_{module.measure}"), "", "", "")
    if isinstance(module, MutualDistiller):
        for peer in module.peers:
            own = reached(results, named(module.measure, peer))
            table.add_row(f"peer {peer}", *own, "", *(f"{n:,}" for n in sizes[f"peer {peer}"]))
    Console().print(table)
    if teacher:
        fewer = [f"{t / s:.1f}x" if s else "-" for t, s in zip(teacher, student_size, strict=True)]
        print(f"Compression: {fewer[0]} fewer parameters, {fewer[1]} fewer multiply-adds (MACs) than the teacher")
    agreement = "; agreement: with the teacher" if teacher else ""
    print(f"last: after the last step; selected: the best on validation{agreement}.")
    print(f"Run folder: {folder} (config, metrics, curves, checkpoints)")
    if student_file is not None:
        print(f"Student: {student_file} (last weights; its card is the .json beside it)")
        line = loading(module.hparams.get("student"), student_file)
        unknown = f"lit_distill.models.restored(<{type(module.student).__name__}>, {str(student_file)!r})"
        print(f"Load it: {line or unknown}")


def reached(results: dict[str, dict[str, float]], metric: str) -> tuple[str, str]:
    """What the last and the selected weights reached, as text."""
    return percent(results.get("last", {}).get(metric)), percent(results.get("selected", {}).get(metric))


def percent(value: float | None) -> str:
    """A share as a percentage with two decimals; a dash for none."""
    return "-" if value is None else f"{100 * value:.2f} %"


def size(network: nn.Module, input_shape: tuple[int, ...] | None) -> tuple[int, int]:
    """Parameters, and multiply-adds of one input."""
    assert input_shape is not None
    return sum(p.numel() for p in network.parameters()), macs(network, input_shape)


def write_predictions(trainer: Trainer) -> None:
    """Write what ``trainer.predict`` gave, and say where.

    The class of each sample and its probability as CSV; a segmenter's masks as pictures, a detector's boxes as JSON.
    """
    batches = trainer.predict_loop.predictions
    if not batches or not trainer.is_global_zero:
        return
    folder = run_folder(trainer)
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(batches[0], list):
        return write_boxes(batches, folder / "predictions.json")
    if batches[0].ndim == 4:
        return write_masks(batches, folder / "predictions")
    file = folder / "predictions.csv"
    probabilities = torch.cat([batch.float().cpu() for batch in batches]).softmax(-1)
    values, classes = probabilities.max(-1)
    rows = [f"{i},{c},{v:.6f}\n" for i, (c, v) in enumerate(zip(classes.tolist(), values.tolist(), strict=True))]
    write_whole(file, lambda partial: partial.write_text("sample,class,probability\n" + "".join(rows)))
    print(f"Predictions: {file} ({len(classes)} samples)")
