"""Coresets: which real images to keep, by what a network (or nobody) sees in them."""

from typing import Literal, get_args

import torch
from torch import Tensor

from lit_distill.errors import InputError

Selection = Literal["random", "herding", "k_center"]


def selected(features: Tensor, count: int, select: Selection, generator: torch.Generator | None = None) -> Tensor:
    """The places of the images that a way of selection takes, int64 ``(count,)``.

    Args:
        features: Of the images of one class, ``(N, D)``.
        count: How many to take.
        select: Which way: ``random``, ``herding`` or ``k_center``.
        generator: For ``random``.

    Raises:
        InputError: When there are fewer images, or no such way.
    """
    if not 1 <= count <= len(features):
        raise InputError(f"count must be from 1 to {len(features)}, the number of images, not {count}")
    if select == "random":
        return torch.randperm(len(features), generator=generator)[:count]
    if select == "herding":
        return herding(features, count)
    if select == "k_center":
        return k_center(features, count)
    raise InputError(f"select: {select!r} given; accepted are {', '.join(get_args(Selection))}")


def herding(features: Tensor, count: int) -> Tensor:
    r"""Images whose mean follows the mean of all, each one chosen for the sum so far.

    Welling, Herding Dynamical Weights to Learn, ICML 2009; a baseline of dataset distillation since Zhao et al., ICLR
    2021, https://arxiv.org/abs/2006.05929

    .. math:: i_{k+1} = \arg\min_{i \notin I_k} \Big\lVert (k + 1)\, \bar f - \sum_{j \in I_k} f_j - f_i \Big\rVert

    Args:
        features: Of the images of one class, ``(N, D)``.
        count: How many to take, at most ``N``.

    Returns:
        Places in the order of choice, int64 ``(count,)``; of equally good ones the first.

    Code: ``snu-mllab/Efficient-Dataset-Condensation:coreset.py``

    Example:
        >>> herding(torch.tensor([[0.0], [1.0], [2.0], [9.0]]), 2)
        tensor([2, 1])
    """
    x = features.double()
    mean = x.mean(0)
    owed = torch.zeros_like(mean)
    free = torch.ones(len(x), dtype=torch.bool, device=x.device)
    chosen = []
    for _ in range(count):
        owed = owed + mean
        distance = (owed - x).square().sum(1).masked_fill(~free, torch.inf)
        best = distance.argmin()
        chosen.append(best)
        free[best] = False
        owed = owed - x[best]
    return torch.stack(chosen)


def k_center(features: Tensor, count: int) -> Tensor:
    """Images near which all others are: the greedy solution, from the image nearest to the mean.

    Sener and Savarese, Active Learning for Convolutional Neural Networks: A Core-Set Approach, ICLR 2018,
    https://arxiv.org/abs/1708.00489

    Args:
        features: Of the images of one class, ``(N, D)``.
        count: How many to take, at most ``N``.

    Returns:
        Places in the order of choice, int64 ``(count,)``: each one is farthest from the nearest one before it; of
        equally far ones the first.

    Example:
        >>> k_center(torch.tensor([[0.0], [1.0], [2.0], [9.0]]), 3)
        tensor([2, 3, 0])
    """
    x = features.double()
    chosen = [(x - x.mean(0)).square().sum(1).argmin()]
    nearest = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
    for _ in range(count - 1):
        nearest = torch.minimum(nearest, (x - x[chosen[-1]]).square().sum(1))
        nearest[chosen[-1]] = -1.0  # also where images are alike, none is taken twice
        chosen.append(nearest.argmax())
    return torch.stack(chosen)
