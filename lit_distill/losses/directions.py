"""Vectors of norm 1."""

import torch
from torch import Tensor


def unit(x: Tensor, dim: int = 1) -> Tensor:
    """Each vector along ``dim`` over its norm; a zero vector stays zero and gets no gradient: it has no direction.

    ``torch.nn.functional.normalize`` gives the same values, and a zero vector a gradient 10¹² times as large as what
    comes in.

    Args:
        x: Vectors.
        dim: Dimension that they lie along.

    Example:
        >>> unit(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    # divided by infinity a zero stays zero, and so does its gradient
    return x / norm.clamp(min=1e-12).masked_fill(norm == 0, torch.inf)
