"""Neuron selectivity transfer: the student's channels respond to the same regions as the teacher's."""

import torch
from torch import Tensor

from lit_distill.core.outputs import Outputs
from lit_distill.losses.base import FeatureLoss
from lit_distill.losses.directions import unit
from lit_distill.losses.feature.maps import aligned
from lit_distill.losses.precision import fp32
from lit_distill.losses.views import as_map


@fp32
def nst(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Squared maximum mean discrepancy between the channels of two maps; the formula stands in :class:`NST`.

    Args:
        student: A map ``(B, C_s, H_s, W_s)``.
        teacher: A map ``(B, C_t, H_t, W_t)``; the larger map is averaged to the size of the smaller.

    Returns:
        A scalar.

    Raises:
        InputError: If they are not maps of the same samples.

    Example:
        >>> x = torch.rand(2, 3, 4, 4)
        >>> nst(torch.cat([x, x], 1), x).abs() < 1e-6
        tensor(True)
    """
    s, t = (unit(x.flatten(2), dim=2) for x in aligned(student, teacher))
    of_teacher = _kernel(t, t)
    # Means near 1 that nearly cancel lose their last digits: what is left of one constant does not.
    level = of_teacher.mean().detach()
    return (of_teacher - level).mean() + (_kernel(s, s) - level).mean() - 2 * (_kernel(s, t) - level).mean()


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    """Squared cosines between the channels of each image, ``(B, C_a, P), (B, C_b, P) -> (B, C_a, C_b)``."""
    return torch.bmm(a, b.transpose(1, 2)).square()


class NST(FeatureLoss):
    r"""The student's channels are spread over the regions of the image as the teacher's are.

    Paper: Huang, Wang, Like What You Like: Knowledge Distill via Neuron Selectivity Transfer, arXiv 2017,
        https://arxiv.org/abs/1707.01219

    .. math:: \sum_{(s, t)} \frac{1}{B} \sum_b \Big( \frac{1}{C_t^2} \sum_{ij} k(t_i, t_j) + \frac{1}{C_s^2}
        \sum_{ij} k(s_i, s_j) - \frac{2}{C_s C_t} \sum_{ij} k(s_i, t_j) \Big), \quad
        k(x, y) = \Big( \frac{x^\top y}{\| x \| \, \| y \|} \Big)^2

    with one vector over the positions for each channel of an image. That is the squared maximum mean discrepancy of
    the paper's best kernel (polynomial of degree 2), so the networks may differ in their number of channels, and
    channels have no order. Of two sizes the larger map is averaged to the smaller height and width. The benchmark of
    CRD on CIFAR-100 takes the last three stages with weight 50.

    Shape:
        Maps ``(B, C_s, H_s, W_s)`` and ``(B, C_t, H_t, W_t)``, or tokens ``(B, N, D)`` that fill a square; output a
        scalar, summed over the pairs.

    Raises:
        InputError: If an activation is no map, or the layers are an empty dict.

    Traps:
        - It takes memory for B C² numbers: the products of all channels are made by one batched multiplication, where
          the benchmark's code makes B C² H W.
        - A channel that is zero everywhere counts in the means, with a kernel of 0 to every other.
        - A map with one position has one direction only: every channel that is not zero looks alike.

    Code: ``HobbitLong/RepDistiller:distiller_zoo/NST.py``, equal to this; the authors released none.

    Example:
        >>> student = Outputs(torch.zeros(2, 10), {"layer2": torch.rand(2, 3, 8, 8)})
        >>> teacher = Outputs(torch.zeros(2, 10), {"layer2": torch.rand(2, 5, 4, 4)})
        >>> NST(layers={"layer2": "layer2"}, weight=50.0)(student, teacher, torch.tensor([0, 3])).shape
        torch.Size([])
    """

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Discrepancy of the channels, summed over the pairs."""
        terms = [nst(as_map(s), as_map(t)) for s, t in self.pairs(student, teacher)]
        return torch.stack(terms).sum()
