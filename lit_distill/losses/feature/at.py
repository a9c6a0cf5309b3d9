"""Attention transfer: where in the image the student's channels respond as the teacher's do."""

from typing import Any, Literal

import torch
from torch import Tensor

from lit_distill.core.outputs import Outputs
from lit_distill.losses.base import FeatureLoss
from lit_distill.losses.checks import require
from lit_distill.losses.directions import unit
from lit_distill.losses.feature.maps import aligned
from lit_distill.losses.precision import fp32
from lit_distill.losses.views import as_map


@fp32
def attention(activation: Tensor, p: float = 2.0) -> Tensor:
    r"""How strongly each position responds, all of an image in one unit vector.

    .. math:: Q = \frac{A}{\| A \|_2}, \quad A_{hw} = \sum_c | f_{chw} |^p

    Args:
        activation: A map ``(B, C, H, W)``.
        p: Power of the activations; the larger, the more the strongest channel counts.

    Returns:
        ``(B, H W)``; zero for an image to which nothing responds.

    Example:
        >>> attention(torch.tensor([[[[1.0, 0.0]], [[2.0, 0.0]]]]))
        tensor([[1., 0.]])
    """
    powers = activation.square() if p == 2 else activation.abs().pow(p)
    return unit(powers.mean(1).flatten(1))  # the mean, as in the authors' code: the sum differs by a factor


@fp32
def at(student: Tensor, teacher: Tensor, p: float = 2.0, mode: Literal["paper", "code"] = "code") -> Tensor:
    r"""Difference of two attention maps; the formula, and what the modes are, stands in :class:`AT`.

    Args:
        student: A map ``(B, C_s, H_s, W_s)``.
        teacher: A map ``(B, C_t, H_t, W_t)``; the larger map is averaged to the size of the smaller.
        p: Power of the activations.
        mode: Formula of the paper or of the released code.

    Returns:
        A scalar.

    Raises:
        InputError: If they are not maps of the same samples.

    Example:
        >>> x = torch.rand(2, 3, 4, 4)
        >>> at(2 * x, x)
        tensor(0.)
    """
    s, t = (attention(x, p) for x in aligned(student, teacher))
    difference = s - t
    if mode == "code":
        return difference.square().mean()
    return torch.linalg.vector_norm(difference, dim=1).mean()


class AT(FeatureLoss):
    r"""The student's channels respond at the same places of the image as the teacher's.

    Paper: Zagoruyko, Komodakis, Paying More Attention to Attention: Improving the Performance of Convolutional Neural
        Networks via Attention Transfer, ICLR 2017, https://arxiv.org/abs/1612.03928

    .. math:: \sum_{(s, t)} \frac{1}{B H W} \sum_b \big\| Q^s_b - Q^t_b \big\|_2^2 \quad \text{(code)}, \qquad
        \sum_{(s, t)} \frac{1}{B} \sum_b \big\| Q^s_b - Q^t_b \big\|_2 \quad \text{(paper)}

    with one unit vector :math:`Q_b` over the positions of each map, :math:`Q = A / \| A \|_2` and
    :math:`A_{hw} = \sum_c |f_{chw}|^p`. Of two sizes the larger map is averaged to the smaller height and width before
    powers are taken. On CIFAR the authors take the three stages with weight 1000, as the benchmark of CRD does.

    Args:
        p: Power of the activations; the larger, the more the strongest channel counts.
        mode: What of the difference counts: its norm (``paper``, which writes half of a factor :math:`\beta` where
            ``weight`` is), or the mean of its squares (``code``, to which the published weights belong).

    Shape:
        Maps ``(B, C_s, H_s, W_s)`` and ``(B, C_t, H_t, W_t)``, or tokens ``(B, N, D)`` that fill a square; output a
        scalar, summed over the pairs.

    Raises:
        InputError: If ``p`` is below 1, if ``mode`` is none of the two, or if an activation is no map.

    Traps:
        - In mode ``code`` the value falls with the number of positions, so that a weight that is right for maps of
          8 by 8 is weak for 56 by 56.
        - A map with one position has nothing to attend to: the term is 0.
        - In mode ``paper`` the gradient does not fade as both maps become equal; at equality it is 0.

    Code: ``szagoruyko/attention-transfer:utils.py`` and ``HobbitLong/RepDistiller:distiller_zoo/AT.py``, equal to mode
        ``code``; the second has the averaging of the larger map.

    Example:
        >>> student = Outputs(torch.zeros(2, 10), {"layer2": torch.rand(2, 3, 8, 8)})
        >>> teacher = Outputs(torch.zeros(2, 10), {"layer2": torch.rand(2, 5, 4, 4)})
        >>> AT(layers={"layer2": "layer2"}, weight=1000.0)(student, teacher, torch.tensor([0, 3])).shape
        torch.Size([])
    """

    def __init__(self, p: float = 2.0, mode: Literal["paper", "code"] = "code", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require(p >= 1, "p", p, "at least 1")
        require(mode in ("paper", "code"), "mode", repr(mode), "paper or code")
        self.p = p
        self.mode: Literal["paper", "code"] = mode

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Difference of the attention maps, summed over the pairs."""
        terms = [at(as_map(s), as_map(t), self.p, self.mode) for s, t in self.pairs(student, teacher)]
        return torch.stack(terms).sum()
