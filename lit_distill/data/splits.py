"""Splits that keep the proportions of the classes."""

import torch
from torch import Tensor

from lit_distill.data.counter_rng import Draw, permutation


def stratified_order(targets: Tensor, seed: int) -> Tensor:
    """A random order of which every prefix has the classes in the proportions of the whole.

    So the first tenth is a stratified validation split, and shorter prefixes are parts of longer ones.

    Args:
        targets: Class of every sample, int64 ``(N,)``.
        seed: Seed of the order within each class.

    Returns:
        Positions, int64 ``(N,)``.

    Example:
        >>> targets = torch.tensor([0] * 8 + [1] * 4)
        >>> targets[stratified_order(targets, seed=0)[:6]].bincount().tolist()
        [4, 2]
    """
    return proportional(permutation(seed, 0, Draw.SPLIT, len(targets)), targets)


def proportional(order: Tensor, targets: Tensor) -> Tensor:
    """The same samples in an order of which every prefix has the classes in the proportions of them all.

    Args:
        order: Positions, int64 ``(M,)``; samples of one class stay in this order.
        targets: Class of every sample, int64 ``(N,)``.

    Returns:
        Positions, int64 ``(M,)``.

    Example:
        >>> proportional(torch.tensor([0, 1, 2, 3, 4, 5]), torch.tensor([7, 7, 7, 7, 3, 3])).tolist()
        [0, 4, 1, 2, 5, 3]
    """
    classes = targets[order]
    by_class = classes.argsort(stable=True)
    counts = classes.bincount()
    starts = counts.cumsum(0) - counts
    place = torch.empty_like(order)  # 0, 1, 2, ... within each class
    place[by_class] = torch.arange(len(order)) - starts[classes[by_class]]
    quantile = (place.double() + 0.5) / counts[classes]
    return order[quantile.argsort(stable=True)]
