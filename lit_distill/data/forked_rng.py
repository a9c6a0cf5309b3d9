"""Global random-number generators, lent out and given back."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def forked_rng(seed: int) -> Iterator[None]:
    """Seed the generators of Python, NumPy and torch (on the CPU) inside, and restore them afterwards.

    For code that draws from them and takes no generator of its own, such as the transforms of torchvision and timm.

    Args:
        seed: Of all three, 0 to 2⁶⁴ - 1.

    Example:
        >>> with forked_rng(1):
        ...     once = random.random()
        >>> with forked_rng(1):
        ...     again = random.random()
        >>> once == again
        True
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        random.seed(seed)
        np.random.seed(seed & 0xFFFFFFFF)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the accelerators too
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
