"""The files of a store: a card that says what it holds, and shards of rows, each a file of its own.

A shard is ``safetensors`` with ``values`` ``(rows, k)``, ``indices`` ``(rows, k)`` and ``rest`` ``(rows,)``. It appears
whole or not at all, so what was made before an interruption is good; reading maps it into memory and loads the pages
that are asked for, which all processes of a machine share.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

import lit_distill
from lit_distill.errors import InputError
from lit_distill.store.topk import Kept
from lit_distill.student_file import write_whole

# Grows when a reader of older stores would misunderstand a newer one.
FORMAT = 1

DTYPES = {"float16": torch.float16, "float32": torch.float32}
Precision = Literal["float16", "float32"]


def write_card(folder: Path, card: Mapping[str, Any]) -> None:
    """Write the card of a store, and its folder where there is none.

    Args:
        folder: The store.
        card: What it holds, in plain values. Added are ``format``, and the versions ``lit_distill`` and ``torch``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"format": FORMAT, "lit_distill": lit_distill.__version__, "torch": torch.__version__, **card}
    text = json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_whole(folder / "card.json", lambda file: file.write_text(text, encoding="utf-8"))


def read_card(folder: Path) -> dict[str, Any]:
    """The card of a store.

    Args:
        folder: The store.

    Raises:
        InputError: When there is no card, or it is not one that this version can read.
    """
    file = folder / "card.json"
    try:
        card = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"labels: {folder} holds no stored answers ({file.name} is missing)") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"labels: {file} cannot be read ({error})") from None
    if not isinstance(card, dict) or not isinstance(card.get("format"), int):
        raise InputError(f"labels: {file} is no card of stored answers")
    if card["format"] > FORMAT:
        raise InputError(
            f"labels: {folder} has format {card['format']}; accepted by lit_distill {lit_distill.__version__} are "
            f"formats up to {FORMAT}, so upgrade it"
        )
    return card


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors by name, all or nothing.

    Args:
        file: Where they go, in a folder that exists.
        tensors: On the CPU.
    """
    write_whole(file, lambda partial: save_file(dict(tensors), partial))


def mapped(file: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, mapped into memory.

    Raises:
        InputError: When the file is missing or damaged.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 -- it is no dict
    except (OSError, SafetensorError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"labels: {file} cannot be read, it may be damaged ({reason})") from error


def write_shard(file: Path, rows: Kept, classes: int, dtype: Precision) -> None:
    """Write some rows.

    Args:
        file: Where they go.
        rows: Kept classes, ``(rows, k)``, on the CPU.
        classes: How many classes there are, which says how many bytes an index needs.
        dtype: Of the log-probabilities. Numbers below the least of it, probabilities of 0, become the least.
    """
    kind = DTYPES[dtype]
    least = torch.finfo(kind).min
    index = torch.int16 if classes <= 2**15 else torch.int32
    tensors = {
        "values": rows.values.clamp(min=least).to(kind),
        "indices": rows.indices.to(index),
        "rest": rows.rest.clamp(min=least).to(kind),
    }
    write_tensors(file, {name: value.contiguous() for name, value in tensors.items()})


def read_shard(file: Path) -> Kept:
    """The rows of a file, mapped into memory.

    Raises:
        InputError: When the file is missing or damaged, or holds something else.
    """
    tensors = mapped(file)
    if tensors.keys() != set(Kept._fields):
        raise InputError(f"labels: {file} holds {', '.join(sorted(tensors))}; accepted is a shard of stored answers")
    return Kept(**tensors)
