"""Global random-number state in checkpoints, one entry a rank."""

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


def rng_states() -> dict[str, list[Tensor]]:
    """The generators' states of every rank, in rank order: ``{"cpu": [...], "cuda": [...]}``.

    A collective call: every rank must make it. Dropout and stochastic depth draw from these generators, so a
    resumed run repeats an uninterrupted one only when they are restored.
    """
    states = {"cpu": _every_rank(torch.get_rng_state())}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = _every_rank(torch.cuda.get_rng_state())
    return states


def set_rng_states(states: dict[str, list[Tensor]]) -> None:
    """Restore this rank's entry of :func:`rng_states`; another number of ranks keeps its own states."""
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if _several() else (0, 1)
    if len(states["cpu"]) != ranks:
        return
    torch.set_rng_state(states["cpu"][rank].cpu())
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"][rank].cpu())


def _every_rank(state: Tensor) -> list[Tensor]:
    if not _several():
        return [state]
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, state)
    return gathered


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
