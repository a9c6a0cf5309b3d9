"""Values that bring their gradient with them, so that no graph has to hold what autograd would need for it."""

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor

Gradient = Callable[[], Tensor]


def with_gradient(term: Callable[..., tuple[Tensor, Gradient]], student: Tensor, *others: Tensor) -> Tensor:
    r"""The value of a term, whose gradient for the student the term says itself.

    Autograd keeps most of what a formula makes on its way until the backward pass: six to thirty tensors of the size
    of the logits for the terms here. A gradient known in closed form is one tensor, and is made while the others are
    at hand. Where autograd can do more than that it is asked: when another tensor than the student's needs a gradient,
    when a gradient is differentiated itself (``create_graph``), under ``torch.func``, and under ``torch.compile``,
    which decides by itself what it keeps.

    Args:
        term: Called with the tensors, gives the value, by differentiable operations, and a function for the gradient
            of its sum. That function runs once, outside any graph, and may overwrite what it alone refers to.
        student: What the gradient is for, ``(..., C)``.
        others: Tensors beside it.

    Returns:
        The value, one number a row ``(...)``, or a scalar.

    Example:
        >>> def square(x):
        ...     return x.square().sum(-1), lambda: 2 * x
        >>> x = torch.tensor([[1.0, 2.0], [0.0, 3.0]], requires_grad=True)
        >>> with_gradient(square, x)
        tensor([5., 9.], grad_fn=<_KnownBackward>)
        >>> torch.autograd.grad(with_gradient(square, x).sum(), x)
        (tensor([[2., 4.],
                [0., 6.]]),)
    """
    if _for_autograd(student, others):
        return term(student, *others)[0]
    return cast(Tensor, _Known.apply(term, student, *others))


def _for_autograd(student: Tensor, others: Iterable[Tensor]) -> bool:
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return True
    return not (torch.is_grad_enabled() and student.requires_grad) or any(x.requires_grad for x in others)


class _Known(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, term: Callable[..., tuple[Tensor, Gradient]], student: Tensor, *others: Tensor) -> Tensor:
        value, gradient = term(student, *others)
        ctx.term = term
        ctx.save_for_backward(gradient(), student, *others)
        return value

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        known, student, *others = ctx.saved_tensors
        if torch.is_grad_enabled():  # this gradient will be differentiated
            value, _ = ctx.term(student, *others)
            (gradient,) = torch.autograd.grad(value, student, upstream, create_graph=True)
        else:
            gradient = known * (upstream.unsqueeze(-1) if upstream.dim() else upstream)
        return None, gradient, *[None] * len(others)
