"""Probabilistic knowledge transfer: each sample picks its neighbours as it does for the teacher."""

from typing import Any

import torch
from torch import Tensor

from lit_distill.core.outputs import Outputs
from lit_distill.losses.base import RelationalLoss
from lit_distill.losses.checks import require
from lit_distill.losses.gather import gathered
from lit_distill.losses.known_gradient import Gradient, with_gradient
from lit_distill.losses.precision import fp32
from lit_distill.losses.relational.cosines import check_vectors, cosine_gaps, gaps_and_gradient
from lit_distill.losses.views import pooled

_pooled = fp32(pooled)


@fp32
def pkt(student: Tensor, teacher: Tensor, eps: float = 1e-7) -> Tensor:
    r"""Divergence between the neighbourhoods of each sample; the formula stands in :class:`PKT`.

    Args:
        student: One embedding a sample, ``(B, D_s)``.
        teacher: One embedding a sample, ``(B, D_t)``.
        eps: Added to norms and to probabilities.

    Returns:
        A scalar, the mean over B² entries; 0 for a single sample.

    Raises:
        InputError: If the embeddings are not vectors of the same samples.

    Example:
        >>> x = torch.eye(3)
        >>> pkt(x, x), pkt(x[:1], -x[:1])
        (tensor(0.), tensor(0.))
    """
    check_vectors(student, teacher)
    return with_gradient(_divergence, student, teacher, eps)


def _divergence(student: Tensor, teacher: Tensor, eps: float) -> tuple[Tensor, Gradient]:
    # The similarities are 1 - x and 1 - y. Those of a tight cluster are all nearly 1, and their divergence is what is
    # left of terms that cancel twice: in p - q, and in the sum of q log(q / p). Both are written without what cancels.
    gaps, through_gaps = gaps_and_gradient(student, eps)
    x, y = gaps / 2, cosine_gaps(teacher, eps) / 2
    of_x, of_y = x.sum(1, keepdim=True), y.sum(1, keepdim=True)
    rest_p, rest_q = len(x) - of_x, len(x) - of_y
    # p = 1 / rest_p - u and q = 1 / rest_q - v
    u, v = x / rest_p, y / rest_q
    q = 1 / rest_q - v
    p_minus_q = v - u + (of_x - of_y) / (rest_p * rest_q)
    r = p_minus_q / (q + eps)

    def gradient() -> Tensor:
        p = 1 / rest_p - u
        of_p = (p_minus_q + eps) / (p + eps)  # and a constant, as the p of a row sum to 1
        return through_gaps(((of_p * p).sum(1, keepdim=True) - of_p) / (2 * x.numel() * rest_p))

    # q log((q + eps) / (p + eps)) + p - q, where the last two sum to 0
    return (q * _minus_log1p(r) + eps * r).mean(), gradient


def _minus_log1p(r: Tensor) -> Tensor:
    """``r - log(1 + r)`` and its gradient with all their digits: by its series where the two cancel."""
    series = r.square() * (1 / 2 - r * (1 / 3 - r * (1 / 4 - r / 5)))
    return torch.where(r.abs() < 1e-3, series, r - torch.log1p(r))


class PKT(RelationalLoss):
    r"""The student copies with which probability a sample picks each other one as its neighbour.

    Paper: Passalis, Tefas, Learning Deep Representations with Probabilistic Knowledge Transfer, ECCV 2018,
        https://arxiv.org/abs/1803.10837

    .. math:: \sum_{(s, t)} \frac{1}{B^2} \sum_{ij} q_{ij} \log \frac{q_{ij} + \epsilon}{p_{ij} + \epsilon}, \quad
        p_{ij} = \frac{k(f^s_i, f^s_j)}{\sum_l k(f^s_i, f^s_l)}, \quad
        k(a, b) = \frac{1}{2} \Big( \frac{a^\top b}{\| a \| \, \| b \|} + 1 \Big)

    with q the same of the teacher. Embeddings may differ in length; maps are averaged over their positions. The
    benchmark of CRD on CIFAR-100 takes the pooled embedding with weight 30000 at a batch of 64.

    Args:
        eps: Added to norms and to probabilities.

    Shape:
        Vectors ``(B, D)``, maps ``(B, C, H, W)`` or tokens ``(B, N, D)``, of any size on either side; output a scalar,
        summed over the pairs.

    Raises:
        InputError: If ``eps`` is not positive, or an activation is none of these.

    Traps:
        - The value is a mean over B² entries of a divergence whose rows sum to 1, and falls as 1 / B: a weight
          belongs to a batch. Without ``gather`` it is that of each device.
        - Computed as the formula stands, in float32, the value of a cluster whose samples differ by one part in 100 has
          no correct digit. Here it has, as long as the embeddings themselves are not rounded: under bfloat16 name the
          map before the pooling, not the pooled vector.

    Code: ``passalis/probabilistic_kt:nn/pkt.py``, equal to this, a sample's similarity to itself included. The paper
        sums over pairs of two different samples.

    Example:
        >>> outputs = Outputs(torch.zeros(4, 10), {"layer4": torch.randn(4, 8, 2, 2)})
        >>> PKT(layers={"layer4": "layer4"}, weight=30000.0)(outputs, outputs, torch.arange(4))
        tensor(0.)
    """

    default_view = "pooled"

    def __init__(self, eps: float = 1e-7, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require(eps > 0, "eps", eps, "positive")
        self.eps = eps

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Divergence of the neighbourhoods, summed over the pairs."""
        terms = []
        for pair in self.pairs(student, teacher):
            s, t = (_pooled(feature) for feature in pair)
            terms.append(pkt(gathered(s), gathered(t), self.eps) if self.gather else pkt(s, t, self.eps))
        return sum(terms[1:], terms[0])
