"""Weights in groups that share a scale."""

import torch
from torch import Tensor


def in_buckets(weight: Tensor, bucket: int | None) -> Tensor:
    """A weight as rows, each of which gets a scale of its own.

    Args:
        weight: Of any shape; its first axis is the output's.
        bucket: Consecutive weights in a row; the last row is filled up with the last weight. ``None``: a row is what
            makes one output (channel).

    Example:
        >>> in_buckets(torch.arange(6).view(2, 3), 4)
        tensor([[0, 1, 2, 3],
                [4, 5, 5, 5]])
    """
    if bucket is None:
        return weight.flatten(1)
    flat = weight.flatten()
    return torch.cat([flat, flat[-1:].expand(-len(flat) % bucket)]).view(-1, bucket)


def out_of_buckets(rows: Tensor, weight: Tensor) -> Tensor:
    """Rows in the shape of the weight that they were made of.

    Args:
        rows: What ``in_buckets`` made, or something computed from it.
        weight: The weight.

    Example:
        >>> weight = torch.arange(6).view(2, 3)
        >>> torch.equal(out_of_buckets(in_buckets(weight, 4), weight), weight)
        True
    """
    return rows.flatten()[: weight.numel()].view(weight.shape)


def span_of(rows: Tensor, scaling: str) -> tuple[Tensor, Tensor]:
    """How far the weights of each row reach, and from where: ``(rows - start) / span`` is within [0, 1] or [-1, 1].

    Args:
        rows: ``(R, n)``.
        scaling: ``linear`` from the least to the largest, within [0, 1]; ``absmax`` by the largest absolute value,
            within [-1, 1] and with 0 where it was.

    Returns:
        ``span`` and ``start``, each ``(R, 1)``. A row of one value has the span 1.
    """
    if scaling == "absmax":
        span = rows.abs().amax(1, keepdim=True)
        start = torch.zeros_like(span)
    else:
        start = rows.amin(1, keepdim=True)
        span = rows.amax(1, keepdim=True) - start
    return torch.where(span < torch.finfo(span.dtype).tiny * 1e3, torch.ones_like(span), span), start
