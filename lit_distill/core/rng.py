"""Global random-number state in checkpoints, one entry a rank."""

import random
from typing import Any, cast

import numpy as np
import torch
from torch import distributed as dist

RNGStates = list[dict[str, Any]]


def rng_states() -> RNGStates:
    """The states of every rank's global generators (Python, NumPy, torch, this rank's CUDA device), in rank order.

    A collective call: every rank must make it. Dropout and stochastic depth draw from these generators, so a
    resumed run repeats an uninterrupted one only when they are restored. Tensors and plain values, which load with
    ``weights_only``.
    """
    name, words, *rest = cast(tuple[Any, ...], np.random.get_state())
    own: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(words.astype(np.int64)), *rest),
        "cpu": torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():
        own["cuda"] = torch.cuda.get_rng_state()
    if not _several():
        return [own]
    states: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(states, own)
    return states


def set_rng_states(states: RNGStates) -> None:
    """Restore this rank's entry of :func:`rng_states`; another number of ranks keeps its own states.

    Args:
        states: What :func:`rng_states` gave, perhaps read back from a checkpoint.
    """
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if _several() else (0, 1)
    if len(states) != ranks:
        return
    own = states[rank]
    random.setstate(own["python"])
    name, words, *rest = own["numpy"]
    np.random.set_state((name, words.cpu().numpy(), *rest))
    torch.set_rng_state(own["cpu"].cpu())
    if "cuda" in own and torch.cuda.is_available():
        torch.cuda.set_rng_state(own["cuda"].cpu())


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
