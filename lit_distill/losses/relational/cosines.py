"""Cosines between the samples of a batch, with all the digits that a tight cluster leaves."""

import torch
from torch import Tensor

from lit_distill.losses.checks import require


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
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    unit = x.masked_fill(norm == 0, 0) / (norm + eps)
    short = eps / (norm + eps)  # by how much it is shorter than 1
    centred = unit - unit.mean(0).detach()  # any constant would do
    half = (centred.square().sum(1, keepdim=True) + short * (2 - short)) / 2
    return half + half.T - centred @ centred.T


def check_vectors(student: Tensor, teacher: Tensor) -> None:
    """Raise unless both are vectors ``(B, D)`` of the same samples."""
    require(
        student.dim() == teacher.dim() == 2 and len(student) == len(teacher),
        "student and teacher embeddings",
        f"{tuple(student.shape)} and {tuple(teacher.shape)}",
        "(B, D) vectors of the same samples",
    )
