"""``lit-distill export``: the student alone, in formats that need none of this library."""

import argparse
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from io import BytesIO, StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as load_parts

import lit_distill.models  # so that a bare class name of ours is known
from lit_distill.callbacks.quantise import Quantisation
from lit_distill.errors import InputError
from lit_distill.quantisation import as_int8, is_quantised
from lit_distill.quantisation.inputs import InputQuantiser
from lit_distill.student_file import load_card, save_student, write_whole

FORMATS = ("safetensors", "torch", "onnx")
TOLERANCE = 1e-4


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
    student, card = student_of(options.run, options.checkpoint or options.run / "student.safetensors")
    differences = export(student, card, options.output or options.run / "export", formats)
    tolerance = tolerance_of(student)
    if wrong := sorted(name for name, difference in differences.items() if not difference < tolerance):
        print(f"Looks wrong: {' and '.join(wrong)} must not differ from the student by {tolerance:g} or more")
        return 1
    return 0


def tolerance_of(student: nn.Module) -> float:
    """By how much answers may differ, relative to the largest of them.

    Where inputs of layers are rounded, one that lies between two steps may go to the other one on another runtime.

    Args:
        student: The network.
    """
    bits = [module.bits for module in student.modules() if isinstance(module, InputQuantiser)]
    return 4 * 2.0 ** -min(bits) if bits else TOLERANCE


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
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--student", type=nn.Module)
    student = parser.instantiate(parser.parse_object({"student": settings["model"]["init_args"]["student"]})).student
    requantise(student, settings)
    card = load_card(student_file)
    if checkpoint != student_file:
        card |= {"which": str(checkpoint), "results": {}}
    if not checkpoint.is_dir():
        return lit_distill.models.restored(student, str(checkpoint)), card
    with TemporaryDirectory() as scratch:
        whole = Path(scratch) / "whole.safetensors"
        save_file(unsharded(checkpoint), whole)
        return lit_distill.models.restored(student, str(whole)), card


def requantise(student: nn.Module, settings: dict[str, Any]) -> None:
    """Quantise a student as the callbacks of its run did.

    Args:
        student: The network as the run began with it.
        settings: The run's ``config.yaml``.
    """
    kinds = {kind.__name__: kind for kind in Quantisation.__subclasses__()}
    for callback in (settings.get("trainer") or {}).get("callbacks") or []:
        if kind := kinds.get(callback["class_path"].rpartition(".")[2]):
            kind(**callback.get("init_args") or {}).quantise(student)


def unsharded(folder: Path) -> dict[str, Tensor]:
    """The whole weights of a sharded checkpoint, without its optimizer's state.

    Args:
        folder: The checkpoint.

    Raises:
        InputError: When the folder is no such checkpoint, or a part of it is missing.
    """
    head = "state_dict."
    try:
        reader = FileSystemReader(folder)
        stored = reader.read_metadata().state_dict_metadata
        weights = {
            name: torch.empty(entry.size, dtype=entry.properties.dtype)
            for name, entry in stored.items()
            if isinstance(entry, TensorStorageMetadata) and name.startswith(head)
        }
        with silent():  # it warns that there is one process, which is what it was told
            load_parts(weights, storage_reader=reader, no_dist=True)
    except (OSError, CheckpointException) as error:
        raise InputError(f"checkpoint: {folder} is no sharded checkpoint, or lacks a part of one") from error
    return {name.removeprefix(head): value for name, value in weights.items()}


def export(student: nn.Module, card: dict[str, Any], folder: Path, formats: list[str]) -> dict[str, float]:
    """Write the student in each format, load each file again, and compare the answers on random inputs.

    A quantised student is written with 8-bit integers for weights.

    Args:
        student: The network.
        card: Its card, which says what inputs it takes.
        folder: Where the files go.
        formats: Any of ``safetensors``, ``torch`` (``torch.export``) and ``onnx``.

    Returns:
        The largest absolute difference from the student's own logits by format, where logits are beyond 1 relative to
        the largest of them.

    Raises:
        InputError: When the network cannot be written in one of the formats.
    """
    student = student.eval().cpu()
    folder.mkdir(parents=True, exist_ok=True)
    x = torch.randn(4, *card["data"]["input_shape"], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = student(x)
    if is_quantised(student):
        student, card = as_int8(student), card | {"weights": "int8"}
    differences = {}
    for name in formats:
        file = folder / f"student.{SUFFIXES[name]}"
        try:
            with silent():
                answer = WRITERS[name](student, card, file, x)
        except InputError:
            raise
        except Exception as error:  # of whatever kind: the exporters run the network's own code in their own ways
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise InputError(f"formats: {name} cannot hold a {type(student).__name__}: {reason}") from error
        differences[name] = float((answer - expected).abs().max() / expected.abs().max().clamp(min=1))
        print(f"{name:12} {file} ({file.stat().st_size:,} bytes), largest difference {differences[name]:.2e}")
    return differences


def to_safetensors(student: nn.Module, card: dict[str, Any], file: Path, x: Tensor) -> Tensor:
    """Weights and card; read back into a copy of the network whose own weights are gone."""
    save_student(student, file, card)
    copy = deepcopy(student)
    for value in copy.state_dict().values():
        value.zero_()
    with torch.no_grad():
        return lit_distill.models.restored(copy, str(file))(x)


def to_torch(student: nn.Module, card: dict[str, Any], file: Path, x: Tensor) -> Tensor:
    """A program of ``torch.export`` for any batch size: runs where torch is, without the model's code."""
    program = torch.export.export(student, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    content = BytesIO()  # it refuses names of files that do not end in .pt2, as a file that is being written does
    torch.export.save(program, content)
    write_whole(file, lambda partial: partial.write_bytes(content.getvalue()))
    with torch.no_grad():
        return torch.export.load(file).module()(x)


def to_onnx(student: nn.Module, card: dict[str, Any], file: Path, x: Tensor) -> Tensor:
    """An ONNX graph for any batch size, answered by onnxruntime."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  # what torch.onnx.export needs
    except ImportError as error:
        raise InputError('formats: onnx needs further packages; pip install "lit-distill[onnx]"') from error
    program = torch.onnx.export(
        student,
        (x,),
        input_names=["x"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    for node in program.model.graph:
        node.metadata_props.clear()  # where in this machine's files each comes from: most of a small network's bytes
    write_whole(file, lambda partial: program.save(partial, external_data=False))
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"x": x.numpy()})[0])


WRITERS = {"safetensors": to_safetensors, "torch": to_torch, "onnx": to_onnx}
SUFFIXES = {"safetensors": "safetensors", "torch": "pt2", "onnx": "onnx"}


@contextmanager
def silent() -> Iterator[None]:
    """Keep what the exporters say of their own insides from the user, who can do nothing about it."""
    with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
