"""Values that bring their gradient with them, so that no graph has to hold what autograd would need for it."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

Gradient = Callable[[], Tensor]


def with_gradient(
    term: Callable[..., tuple[Tensor, Gradient]],
    student: Tensor,
    *others: Tensor | float,
    plain: Callable[..., Tensor] | None = None,
) -> Tensor:
    r"""The value of a term, whose gradient for the student the term says itself.

    Autograd keeps most of what a formula makes on its way until the backward pass: six to thirty tensors of the size
    of the logits for the terms here. A gradient known in closed form is one tensor, and is made while the others are
    at hand. Where autograd can do more than that it is asked: when another tensor than the student's needs a gradient,
    when a gradient is differentiated itself (``create_graph``), under ``torch.func``, and under ``torch.compile``,
    which decides by itself what it keeps.

    Args:
        term: Called with the arguments that follow, gives the value, by differentiable operations, and a function for
            the gradient of its sum. That function runs once, outside any graph, and may overwrite what it alone refers
            to.
        student: What the gradient is for, ``(..., C)``.
        others: What else the value depends on, if it may need a gradient.
        plain: The value alone, for autograd; default: the one that ``term`` gives.

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
    plain = plain or (lambda *given: term(*given)[0])
    if _for_autograd(student, others):
        return plain(student, *others)
    return cast(Tensor, _Known.apply(term, plain, student, *others))


def in_pieces(rows: Callable[..., Tensor], student: Tensor, *others: Tensor, elements: int = 2**15) -> Tensor:
    """Values of rows that depend on nothing but their own row, differentiated a few rows at a time.

    For formulas whose graph is large and whose gradient has no short form: only one piece's graph exists at a time.

    Args:
        rows: From rows of all tensors to one value each, by differentiable operations.
        student: What the gradient is for, ``(B, C)``.
        others: Tensors of as many rows.
        elements: About how many numbers of ``student`` a piece has.

    Returns:
        One value a row, ``(B,)``.

    Example:
        >>> x = torch.tensor([[1.0, 2.0], [0.0, 3.0]], requires_grad=True)
        >>> in_pieces(lambda row: row.square().sum(-1), x, elements=2)
        tensor([5., 9.], grad_fn=<_KnownBackward>)
    """
    return with_gradient(partial(_pieces, rows, elements), student, *others, plain=rows)


def _pieces(rows: Callable[..., Tensor], elements: int, student: Tensor, *others: Tensor) -> tuple[Tensor, Gradient]:
    size = max(1, elements * len(student) // max(1, student.numel()))
    values, gradients = [], []
    for learnt, *given in zip(*(x.split(size) for x in (student, *others)), strict=True):
        learnt = learnt.detach().requires_grad_()
        with torch.enable_grad():
            value = rows(learnt, *given)
        gradients += torch.autograd.grad(value, learnt, torch.ones_like(value))
        values.append(value.detach())
    return torch.cat(values), lambda: torch.cat(gradients)


def _for_autograd(student: Tensor, others: Iterable[Tensor | float]) -> bool:
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return True
    if not (torch.is_grad_enabled() and student.requires_grad):
        return True
    return any(isinstance(x, Tensor) and x.requires_grad for x in others)


class _Known(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        term: Callable[..., tuple[Tensor, Gradient]],
        plain: Callable[..., Tensor],
        student: Tensor,
        *others: Any,
    ) -> Tensor:
        value, gradient = term(student, *others)
        ctx.plain, ctx.others = plain, tuple(None if isinstance(x, Tensor) else x for x in others)
        ctx.save_for_backward(gradient(), student, *(x for x in others if isinstance(x, Tensor)))
        return value

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        known, student, *saved = ctx.saved_tensors
        if torch.is_grad_enabled():  # this gradient will be differentiated
            value = ctx.plain(student, *(saved.pop(0) if x is None else x for x in ctx.others))
            (gradient,) = torch.autograd.grad(value, student, upstream, create_graph=True)
        else:
            gradient = known * (upstream.unsqueeze(-1) if upstream.dim() else upstream)
        return None, None, gradient, *[None] * len(ctx.others)
