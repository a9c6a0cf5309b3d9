"""Cosines between the samples of a batch, with all the digits that a tight cluster leaves."""

from collections.abc import Callable

import torch
from torch import Tensor

from lit_distill.losses.checks import require

# Where a norm is 0 something is divided that is 0 too.
TINY = 1e-30


def cosine_gaps(x: Tensor, eps: float = 1e-12) -> Tensor:
    r"""One minus the cosine of each two samples.

    The vectors :math:`u_i = x_i / (\| x_i \| + \epsilon)` are seen from their mean m, which changes nothing:

    .. math:: 1 - u_i^\top u_j = \frac{h_i + h_j}{2} - c_i^\top c_j, \quad c_i = u_i - m, \quad
        h_i = \| c_i \|^2 + 1 - \| u_i \|^2

    Where samples lie close together their cosines are 1 up to the last digits, and only the gap to 1 tells them apart.

    Args:
        x: One vector a sample, ``(B, D)``.
        eps: What is added to norms.

    Returns:
        ``(B, B)`` in [0, 2]; 1 for a zero vector, which gets no gradient: it has no direction.
    """
    return gaps_and_gradient(x, eps)[0]


def gaps_and_gradient(x: Tensor, eps: float = 1e-12) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """What :func:`cosine_gaps` gives, and a function from the gradient for it to the gradient for ``x``.

    Args:
        x: One vector a sample, ``(B, D)``.
        eps: What is added to norms.
    """
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    short = eps / (norm + eps)  # by how much a vector is shorter than 1
    length = (norm + eps).masked_fill(norm == 0, torch.inf)  # a zero vector stays one, and gets no gradient
    unit = x / length
    centred = unit - unit.mean(0).detach()  # any constant would do
    half = (centred.square().sum(1, keepdim=True) + short * (2 - short)) / 2

    def gradient(of_gaps: Tensor) -> Tensor:
        both = of_gaps + of_gaps.mT
        rows = both.sum(1, keepdim=True)
        of_unit = (rows * centred).addmm_(both, centred, alpha=-1)
        of_norm = (of_unit * unit).sum(1, keepdim=True) / (1 - short).clamp(min=TINY) + rows * short
        return of_unit.addcmul_(of_norm, unit, value=-1).div_(length)

    return half + half.T - centred @ centred.T, gradient


def check_vectors(student: Tensor, teacher: Tensor) -> None:
    """Raise unless both are vectors ``(B, D)`` of the same samples."""
    require(
        student.dim() == teacher.dim() == 2 and len(student) == len(teacher),
        "student and teacher embeddings",
        f"{tuple(student.shape)} and {tuple(teacher.shape)}",
        "(B, D) vectors of the same samples",
    )
