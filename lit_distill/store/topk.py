"""Distributions over many classes, kept as the few likeliest ones and all others together."""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lit_distill.losses.checks import require
from lit_distill.losses.precision import fp32

Rest = Literal["smoothing", "renorm"]

#: Stands for the logarithm of 0: its exponential is 0, and unlike -inf it can be multiplied by 0.
NOTHING = -1e4


class Kept(NamedTuple):
    """The k likeliest of C classes, in each of any number of rows.

    Attributes:
        values: Their log-probabilities, falling, ``(..., k)``.
        indices: Which classes they are, integer ``(..., k)``.
        rest: Log-probability of all other classes together, ``(...)``; where there are none, ``NOTHING`` or less.
    """

    values: Tensor
    indices: Tensor
    rest: Tensor


@fp32
def keep(logits: Tensor, k: int) -> Kept:
    """The likeliest classes of each row.

    Args:
        logits: Scores ``(..., C)``.
        k: How many classes to keep, 1 to C.

    Raises:
        InputError: If ``k`` is outside its range.

    Example:
        >>> kept = keep(torch.tensor([[0.1, 0.7, 0.2]]).log(), k=1)
        >>> kept.indices.tolist(), kept.values.exp(), kept.rest.exp()
        ([[1]], tensor([[0.7000]]), tensor([0.3000]))
    """
    classes = logits.shape[-1]
    require(1 <= k <= classes, "k", k, f"from 1 to the number of classes, {classes}")
    log_p = logits.log_softmax(-1)
    values, indices = log_p.topk(k)
    rest = log_p.scatter(-1, indices, NOTHING).logsumexp(-1) if k < classes else torch.full_like(log_p[..., 0], NOTHING)
    return Kept(values, indices, rest)


def cut(kept: Kept, k: int) -> Kept:
    """The k likeliest of the classes that were kept; the others join the rest.

    Args:
        kept: At least k classes.
        k: How many classes to keep.

    Raises:
        InputError: If fewer than ``k`` were kept.
    """
    most = kept.values.shape[-1]
    require(1 <= k <= most, "k", k, f"from 1 to {most}, as many as were kept")
    rest = torch.logaddexp(kept.values[..., k:].logsumexp(-1), kept.rest) if k < most else kept.rest
    return Kept(kept.values[..., :k], kept.indices[..., :k], rest)


def expand(kept: Kept, classes: int, rest: Rest = "smoothing") -> Tensor:
    r"""Log-probabilities of all classes again, which serve every loss as logits.

    Shen and Xing, "A Fast Knowledge Distillation Framework for Visual Recognition", ECCV 2022,
    https://arxiv.org/abs/2112.01528, section 3.3, official code ``szq0214/FKD:FKD/utils_FKD.py``
    (``Recover_soft_label``). With the probabilities p of the k classes K that were kept

    .. math::
        \text{smoothing:} \quad \hat p_c = p_c \ (c \in K), \quad \frac{1 - \sum_{i \in K} p_i}{C - k} \ (c \notin K)
        \qquad\qquad
        \text{renorm:} \quad \hat p_c = \frac{p_c}{\sum_{i \in K} p_i} \ (c \in K), \quad 0 \ (c \notin K)

    Label smoothing by the teacher's confidence is ``smoothing`` with k = 1, the hard label of its favourite class
    ``renorm`` with k = 1, and with k = C both give everything back.

    Args:
        kept: Some of the classes, ``(..., k)``.
        classes: How many there are.
        rest: What the classes that were not kept get: ``smoothing`` shares their probability out evenly (marginal
            smoothing), ``renorm`` gives them none, but the kept ones the more (marginal re-norm).

    Returns:
        Log-probabilities ``(..., C)``; ``NOTHING`` or less stands for a probability of 0.

    Example:
        >>> kept = keep(torch.tensor([[0.1, 0.5, 0.4]]).log(), k=1)
        >>> expand(kept, 3).exp(), expand(kept, 3, "renorm").exp()
        (tensor([[0.2500, 0.5000, 0.2500]]), tensor([[0., 1., 0.]]))
    """
    others = classes - kept.values.shape[-1]
    share = kept.rest - math.log(others) if others and rest == "smoothing" else torch.full_like(kept.rest, NOTHING)
    full = share.unsqueeze(-1).repeat_interleave(classes, -1)
    return full.scatter(-1, kept.indices.long(), kept.values).log_softmax(-1)
