"""The gradient of a rounding."""

from typing import Any

import torch
from torch import Tensor


class StraightThrough(torch.autograd.Function):
    r"""Rounded values whose gradient is that of the values before: :math:`\partial q / \partial x := \mathbb 1`.

    Bengio et al., *Estimating or Propagating Gradients Through Stochastic Neurons*, 2013,
    https://arxiv.org/abs/1308.3432.

    >>> x = torch.tensor([0.2, 1.7, 9.0], requires_grad=True)
    >>> q = StraightThrough.apply(x, x.round().clamp(max=2.0), x < 2)
    >>> (q * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    >>> q.tolist(), x.grad.tolist()
    ([0.0, 2.0, 2.0], [1.0, 2.0, 0.0])
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, rounded: Tensor, inside: Tensor | None = None) -> Tensor:
        """The rounded values.

        Args:
            ctx: What torch hands to ``backward``.
            x: The values before rounding.
            rounded: The values after it, of the same shape.
            inside: Where the gradient passes; outside it is 0. Default: everywhere.
        """
        if inside is not None:
            ctx.save_for_backward(inside)
        return rounded.view_as(rounded)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """The gradient as it comes, where it passes."""
        (gradient,) = gradients
        return (gradient * ctx.saved_tensors[0] if ctx.saved_tensors else gradient), None, None
