"""A student on disk: its weights as safetensors, and a card beside them that says what they are."""

import json
import math
import os
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

import lit_distill
from lit_distill.errors import InputError

# Grows when a reader of older cards would misunderstand a newer one.
FORMAT = 1


def save_student(student: nn.Module, path: str | Path, card: Mapping[str, Any]) -> None:
    """Write a student's weights to ``path`` and its card beside them, with the suffix ``.json``.

    The weights are a plain ``state_dict``: ``student.load_state_dict(safetensors.torch.load_file(path))`` reads them.
    Tensors that share memory are written once for each name. Both files appear whole or not at all. In a
    distributed run all ranks must call this: sharded weights are gathered, and rank 0 writes.

    Args:
        student: The network.
        path: Where the weights go; ends in ``.safetensors``.
        card: What else to say about the student, in plain values. Added are ``format``, ``lit_distill``, ``torch``
            (versions), ``student`` (the path of its class), ``parameters`` (their number) and ``created`` (UTC).

    Raises:
        InputError: When ``path`` has another suffix, or the student's state holds something that is no tensor.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     save_student(nn.Linear(2, 3), f"{folder}/student.safetensors", {"epoch": 5})
        ...     card = load_card(f"{folder}/student.safetensors")
        >>> card["student"], card["parameters"], card["epoch"]
        ('torch.nn.modules.linear.Linear', 9, 5)
    """
    path = checked(path)
    weights = {}
    for name, value in student.state_dict().items():
        if not isinstance(value, Tensor):
            raise InputError(
                f"student: its state {name!r} is a {type(value).__name__}; accepted in safetensors are tensors only"
            )
        whole = value.full_tensor() if isinstance(value, DTensor) else value.detach()
        if _writes():
            weights[name] = whole.to("cpu", copy=True).contiguous()
    if _writes():
        _write(student, path, weights, card)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()  # so that every rank can read what it has just saved


def load_card(path: str | Path) -> dict[str, Any]:
    """The card of a student.

    Args:
        path: The student's weights; the card lies beside them.

    Raises:
        InputError: When there is no card, or it is not one that this version can read.
    """
    file = card_path(path)
    try:
        card = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"path: {path} has no card beside it; expected is {file}") from None
    except json.JSONDecodeError as error:
        raise InputError(f"path: {file} is no JSON ({error}); accepted is a card that save_student wrote") from None
    if not isinstance(card, dict) or not isinstance(card.get("format"), int):
        raise InputError(f"path: {file} is no student's card; accepted is a card that save_student wrote")
    if card["format"] > FORMAT:
        raise InputError(
            f"path: {file} has format {card['format']}; accepted by lit_distill {lit_distill.__version__} are formats "
            f"up to {FORMAT}, so upgrade it"
        )
    return card


def update_card(path: str | Path, entries: Mapping[str, Any]) -> dict[str, Any]:
    """Add entries to a student's card, or replace them, and return the whole card.

    Args:
        path: The student's weights; the card lies beside them.
        entries: Plain values by name.

    Raises:
        InputError: When there is no card, or it is not one that this version can read.
    """
    card = load_card(path) | _plain(entries)
    _write_card(Path(path), card)
    return card


def card_path(path: str | Path) -> Path:
    """Where the card of a student lies.

    Args:
        path: The student's weights.
    """
    return Path(path).with_suffix(".json")


def checked(path: str | Path) -> Path:
    """``path`` if it can name a student's weights.

    Args:
        path: Where the weights go.

    Raises:
        InputError: When it does not end in ``.safetensors``.
    """
    if Path(path).suffix != ".safetensors":
        raise InputError(f"path: {path} given for a student; accepted are names that end in .safetensors")
    return Path(path)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file so that it appears whole or not at all, and a reader never sees half of it.

    Args:
        path: The file.
        write: Writes to the path it is given, a temporary one in the same folder.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _writes() -> bool:
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def _write(student: nn.Module, path: Path, weights: dict[str, Tensor], card: Mapping[str, Any]) -> None:
    # FSDP2 puts a class of its own making in front of a sharded network's
    own = next(
        c
        for c in type(student).__mro__
        if not c.__module__.startswith("torch.distributed") and "FSDP" not in c.__name__
    )
    facts = {
        "format": FORMAT,
        "lit_distill": lit_distill.__version__,
        "torch": torch.__version__,
        "student": f"{own.__module__}.{own.__qualname__}",
        "parameters": sum(parameter.numel() for parameter in student.parameters()),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: save_file(weights, file, metadata={"format": "pt"}))
    _write_card(path, facts | dict(card))


def _write_card(path: Path, card: Mapping[str, Any]) -> None:
    text = json.dumps(_plain(card), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_whole(card_path(path), lambda file: file.write_text(text, encoding="utf-8"))


def _plain(value: Any) -> Any:
    """What JSON can hold: numbers that are none become null, other objects their name."""
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)
