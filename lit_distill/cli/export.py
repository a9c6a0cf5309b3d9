"""``lit-distill export``: the student alone, in formats that need none of this library."""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser
from rich.console import Console
from torch import Tensor, nn
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

import lit_distill.models  # so that a bare class name of ours is known
from lit_distill.errors import InputError
from lit_distill.student_file import load_card, save_student

FORMATS = ("safetensors", "torch", "onnx")


def run(arguments: list[str]) -> int:
    """Export the student of a run.

    Args:
        arguments: What follows ``lit-distill export``.

    Returns:
        0; errors are raised.
    """
    parser = argparse.ArgumentParser(
        prog="lit-distill export", description="Write a run's student alone, and compare what each file answers."
    )
    parser.add_argument("run", type=Path, help="run folder: the one with config.yaml, as the fit printed it")
    parser.add_argument(
        "--checkpoint", type=Path, help="weights to export; default: RUN/student.safetensors (the last ones)"
    )
    parser.add_argument("--output", type=Path, help="folder to write; default: RUN/export")
    parser.add_argument("--formats", default=",".join(FORMATS), help=f"comma-separated, of: {', '.join(FORMATS)}")
    options = parser.parse_args(arguments)
    formats = [name.strip() for name in options.formats.split(",")]
    if wrong := sorted(set(formats) - set(FORMATS)):
        raise InputError(f"formats: {', '.join(wrong)} is not known; accepted are {', '.join(FORMATS)}")
    checkpoint = options.checkpoint or options.run / "student.safetensors"
    student, card = student_of(options.run, checkpoint)
    export(student, card, options.output or options.run / "export", formats)
    return 0


def student_of(folder: Path, checkpoint: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The student of a run with a checkpoint's weights, and its card.

    Args:
        folder: The run folder.
        checkpoint: Student file, Lightning checkpoint, or folder of a sharded (FSDP2) one.

    Raises:
        InputError: When the folder holds no run or the checkpoint does not fit.
    """
    config, student_file = folder / "config.yaml", folder / "student.safetensors"
    if not config.is_file() or not student_file.is_file():
        raise InputError(f"run: {folder} is not the folder of a finished run (config.yaml and student.safetensors)")
    arguments = yaml.safe_load(config.read_text())["model"]["init_args"]["student"]
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--student", type=nn.Module)
    student = parser.instantiate(parser.parse_object({"student": arguments})).student
    card = load_card(student_file)
    if checkpoint != student_file:
        card |= {"which": str(checkpoint), "results": {}}
    if checkpoint.is_dir():
        with TemporaryDirectory() as scratch:
            whole = Path(scratch) / "whole.ckpt"
            dcp_to_torch_save(checkpoint, whole)
            return lit_distill.models.restored(student, str(whole)), card
    return lit_distill.models.restored(student, str(checkpoint)), card


def export(student: nn.Module, card: dict[str, Any], folder: Path, formats: list[str]) -> dict[str, float]:
    """Write the student in each format, load each file again, and compare the answers on random inputs.

    Args:
        student: The network.
        card: Its card; ``input_shape`` says what it takes.
        folder: Where the files go.
        formats: Any of ``safetensors``, ``torch`` (``torch.export``) and ``onnx``.

    Returns:
        The largest absolute difference from the student's own logits, by format.
    """
    student = student.eval().cpu()
    folder.mkdir(parents=True, exist_ok=True)
    x = torch.randn(4, *card["input_shape"], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = student(x)
    console, differences = Console(), {}
    for name in formats:
        file, answer = WRITERS[name](student, card, folder, x)
        differences[name] = float((answer - expected).abs().max())
        console.print(
            f"{name:12} {file} ({file.stat().st_size:,} bytes), largest difference {differences[name]:.2e}",
            soft_wrap=True,
            highlight=False,
        )
    return differences


def to_safetensors(student: nn.Module, card: dict[str, Any], folder: Path, x: Tensor) -> tuple[Path, Tensor]:
    """Weights and card; read back into the same architecture."""
    file = folder / "student.safetensors"
    save_student(student, file, card)
    with torch.no_grad():
        return file, lit_distill.models.restored(student, str(file))(x)


def to_torch(student: nn.Module, card: dict[str, Any], folder: Path, x: Tensor) -> tuple[Path, Tensor]:
    """A program of ``torch.export`` for any batch size: runs where torch is, without the model's code."""
    file = folder / "student.pt2"
    program = torch.export.export(student, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, file)
    with torch.no_grad():
        return file, torch.export.load(file).module()(x)


def to_onnx(student: nn.Module, card: dict[str, Any], folder: Path, x: Tensor) -> tuple[Path, Tensor]:
    """An ONNX graph for any batch size, answered by onnxruntime."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  # what torch.onnx.export needs
    except ImportError as error:
        raise InputError('formats: onnx needs further packages; pip install "lit-distill[onnx]"') from error
    file = folder / "student.onnx"
    torch.onnx.export(
        student,
        (x,),
        file,
        input_names=["x"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return file, torch.from_numpy(session.run(None, {"x": x.numpy()})[0])


WRITERS = {"safetensors": to_safetensors, "torch": to_torch, "onnx": to_onnx}
