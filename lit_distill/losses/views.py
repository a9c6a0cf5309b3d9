"""Activations as vectors, maps or tokens, and in the size of another one."""

import math

from torch import Tensor
from torch.nn import functional as F

from lit_distill.errors import InputError


def pooled(x: Tensor) -> Tensor:
    """The mean over positions or tokens, ``(B, D)``.

    Args:
        x: A map ``(B, D, H, W)``, tokens ``(B, N, D)`` or vectors ``(B, D)``.

    Raises:
        InputError: When it is none of these.
    """
    _known(x)
    if x.dim() == 4:
        return x.mean((2, 3))
    return x.mean(1) if x.dim() == 3 else x


def as_tokens(x: Tensor) -> Tensor:
    """One token a position, ``(B, N, D)``; tokens stay as they are, vectors become one token.

    Args:
        x: A map ``(B, D, H, W)``, tokens ``(B, N, D)`` or vectors ``(B, D)``.

    Raises:
        InputError: When it is none of these.
    """
    _known(x)
    if x.dim() == 4:
        return x.flatten(2).transpose(1, 2)
    return x if x.dim() == 3 else x[:, None]


def as_map(x: Tensor) -> Tensor:
    """A map ``(B, D, H, W)``; tokens become a square map, vectors one of size 1.

    Tokens that do not fill a square begin with prefix tokens (class, distillation, registers), which are left out: of
    197 tokens the last 196 are a map of 14 by 14.

    Args:
        x: A map ``(B, D, H, W)``, tokens ``(B, N, D)`` or vectors ``(B, D)``.

    Raises:
        InputError: When it is none of these.
    """
    _known(x)
    if x.dim() == 4:
        return x
    if x.dim() == 2:
        return x[:, :, None, None]
    side = math.isqrt(x.shape[1])
    return x[:, x.shape[1] - side**2 :].transpose(1, 2).unflatten(2, (side, side))


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """A map in another size: averaged where it shrinks, interpolated (bilinear) where it grows.

    Args:
        x: A map ``(B, D, H, W)``.
        size: Height and width that it gets.
    """
    smaller = min(x.shape[2], size[0]), min(x.shape[3], size[1])
    if smaller != tuple(x.shape[2:]):
        x = F.adaptive_avg_pool2d(x, smaller)
    if smaller != size:
        x = F.interpolate(x, size, mode="bilinear", align_corners=False)
    return x


def same_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps in the smaller height and width of both, the larger one averaged.

    Args:
        student: A map ``(B, D, H, W)``.
        teacher: A map ``(B, E, H', W')``.
    """
    size = min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3])
    return resized(student, size), resized(teacher, size)


def _known(x: Tensor) -> None:
    if x.dim() not in (2, 3, 4):
        raise InputError(
            f"layers must give maps (B, D, H, W), tokens (B, N, D) or vectors (B, D), got {tuple(x.shape)}"
        )
