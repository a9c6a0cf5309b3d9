"""Weights from a file, whoever wrote it."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lit_distill.errors import InputError
from lit_distill.models.recipe import trained

# What training wraps a network in: this library's modules, other people's, and data parallelism.
PREFIXES = ("student.", "model.", "module.")


def restored(model: nn.Module, path: str, recipe: str | None = None) -> nn.Module:
    """``model`` with the weights of a file; a missing file can be trained first.

    Reads safetensors, state dicts (``.pt``, ``.pth``; alone or under ``state_dict`` or ``model``) and Lightning
    checkpoints, of which it takes the student alone. Names may begin with ``student.``, ``model.`` or
    ``module.`` and hold ``_orig_mod.``: wrappers that the model itself does not have are taken off. Nothing but
    tensors and plain values is ever unpickled.

    Args:
        model: The network, of the architecture that the file was written from.
        path: The file of weights.
        recipe: A preset that trains the file when it is missing: a YAML file or a preset's name. The training is
            a process of its own; of several processes one trains and the others wait.

    Returns:
        The same ``model``, in the mode it was.

    Raises:
        InputError: The file is missing, damaged, or does not fit the model; or the recipe failed.
    """
    file = trained(path, recipe)
    state = model.state_dict()
    own = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    weights = _unwrapped(read_weights(file), own)
    problem = _misfit(own, weights)
    if problem:
        raise InputError(f"path {file} does not fit the model, a {type(model).__name__}: {problem}")
    state.update(weights)  # what the file may lack (counters, shared weights) stays as it is
    model.load_state_dict(state)
    return model


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU.

    Args:
        file: Safetensors, a state dict, or a checkpoint that holds one under ``state_dict`` or ``model``.

    Raises:
        InputError: The file is damaged, or holds no weights or something that must not be unpickled.
    """
    if file.is_dir():
        raise InputError(f"path {file} is a folder; weights are read from one file (`lit-distill export` makes it)")
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except (SafetensorError, OSError) as error:
            raise InputError(f"path {file} cannot be read, it may be damaged: {_line(error)}") from error
    try:
        found: Any = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        why = f"it holds a {refused[1]}; save the state_dict() alone" if refused else "it may be damaged"
        raise InputError(f"path {file} cannot be read: {why}") from error
    except Exception as error:  # a damaged archive raises almost anything
        raise InputError(f"path {file} cannot be read, it may be damaged: {_line(error)}") from error
    for key in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping):
        raise InputError(f"path {file} holds no weights by name, but a {type(found).__name__}")
    weights = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    if not weights:
        raise InputError(f"path {file} holds no weights; its keys: {_few(map(str, found))}")
    return weights


def _unwrapped(weights: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names without the wrappers that the model lacks; what lies outside a wrapper is not the network's."""
    if not any("_orig_mod." in name for name in own):
        weights = {name.replace("_orig_mod.", ""): value for name, value in weights.items()}
    foreign = [prefix for prefix in PREFIXES if not any(name.startswith(prefix) for name in own)]
    while prefix := next((p for p in foreign if any(name.startswith(p) for name in weights)), None):
        weights = {n.removeprefix(prefix): value for n, value in weights.items() if n.startswith(prefix)}
    return weights


def _misfit(own: dict[str, Tensor], weights: dict[str, Tensor]) -> str:
    """Why ``weights`` are not the model's, in a few words; nothing when they are."""
    given = {value.data_ptr() for name, value in own.items() if name in weights}
    missing = [
        name
        for name, value in own.items()
        if name not in weights
        and not name.endswith("num_batches_tracked")  # written by no torch before 0.4.1, and needed by nobody
        and value.data_ptr() not in given  # safetensors stores a shared weight once
    ]
    unexpected = [name for name in weights if name not in own]
    differing = [name for name in own if name in weights and weights[name].shape != own[name].shape]
    if not missing and not unexpected and _only_classes_differ(own, weights, differing):
        head, name = differing[0].rpartition(".")[0], differing[0]
        return f"the file holds a head for {len(weights[name])} classes ({head}), the model has {len(own[name])}"
    shapes = [f"{name} {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}" for name in differing]
    complaints = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    return "; ".join(f"{len(names)} {what}: {_few(names)}" for what, names in complaints.items() if names)


def _only_classes_differ(own: dict[str, Tensor], weights: dict[str, Tensor], differing: list[str]) -> bool:
    head = list(own)[-1].rpartition(".")[0] if own else ""
    return bool(differing) and all(
        name.rpartition(".")[0] == head
        and own[name].ndim == weights[name].ndim > 0
        and own[name].shape[1:] == weights[name].shape[1:]
        for name in differing
    )


def _few(names: Iterable[str], most: int = 3) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
