"""Scalar products of vectors with each other, whose backward pass multiplies once where autograd would twice."""

from typing import Any

import torch
from torch import Tensor


def products(x: Tensor) -> Tensor:
    r"""All scalar products of the rows of matrices, :math:`x x^\top`.

    Args:
        x: Matrices ``(..., N, D)``.

    Returns:
        ``(..., N, N)``.

    Example:
        >>> products(torch.tensor([[1.0, 2.0], [0.0, 3.0]]))
        tensor([[5., 6.],
                [6., 9.]])
    """
    if _for_autograd(x):
        return x @ x.mT
    given: Tensor = _Products.apply(x)
    return given


def centred_products(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Scalar products of vectors seen from their mean m, with each other and with that mean.

    .. math:: c_i^\top c_j, \quad c_i^\top m, \quad m^\top m, \qquad c_i = x_i - m

    Where vectors lie close together far from the origin their own products are all nearly the same; these are not.

    Args:
        x: One vector a row, ``(B, D)``.

    Returns:
        ``(B, B)``, ``(B,)`` and ``()``.

    Example:
        >>> [given.tolist() for given in centred_products(torch.tensor([[1.0, 2.0], [3.0, 2.0]]))]
        [[[1.0, -1.0], [-1.0, 1.0]], [-2.0, 2.0], 8.0]
    """
    if _for_autograd(x):
        return _centred(x)[:3]
    given: tuple[Tensor, Tensor, Tensor] = _CentredProducts.apply(x)
    return given


def _centred(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    mean = x.mean(0)
    centred = x - mean
    return centred @ centred.mT, centred @ mean, mean @ mean, centred, mean


def _for_autograd(x: Tensor) -> bool:
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return True
    return not (torch.is_grad_enabled() and x.requires_grad)


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x @ x.mT

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return (gradient + gradient.mT) @ x


class _CentredProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        *given, centred, mean = _centred(x)
        ctx.save_for_backward(x, centred, mean)
        return given[0], given[1], given[2]

    @staticmethod
    def backward(ctx: Any, of_centred: Tensor, of_both: Tensor, of_mean: Tensor) -> Tensor:
        x, centred, mean = ctx.saved_tensors
        if torch.is_grad_enabled():  # this gradient will be differentiated
            centred, mean = _centred(x)[3:]
        own = of_centred + of_centred.mT
        # what comes back to a vector: its own part, less the mean of all those, and its share of the mean's
        factors = own + (of_both - own.sum(0)) / len(x)
        return torch.addr(factors @ centred, of_both - of_both.mean() + 2 * of_mean / len(x), mean)
