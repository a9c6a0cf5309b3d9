"""Arithmetic that must not run in half precision."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
T = TypeVar("T")


def fp32(function: Callable[P, T]) -> Callable[P, T]:
    """Run ``function`` outside autocast, with half-precision tensor arguments raised to float32.

    Softmaxes, distances, Gram matrices and Sinkhorn iterations lose all digits in bfloat16 exactly where they
    matter (a tight cluster, a confident teacher). float64 stays float64.
    """

    @wraps(function)
    def inside(*args: P.args, **kwargs: P.kwargs) -> T:
        device = next((a.device.type for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), "cpu")
        args, kwargs = map(_raised, args), {k: _raised(v) for k, v in kwargs.items()}  # type: ignore[assignment]
        if not torch.is_autocast_enabled(device):  # to switch off what is off takes as long as a small loss
            return function(*args, **kwargs)
        with torch.autocast(device, enabled=False):
            return function(*args, **kwargs)

    return inside


def _raised(value: object) -> object:
    if isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16):
        return value.float()
    return value
