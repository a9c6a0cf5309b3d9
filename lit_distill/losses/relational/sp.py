"""Similarity-preserving distillation: images that the teacher finds alike are alike for the student."""

import torch
from torch import Tensor

from lit_distill.core.outputs import Outputs
from lit_distill.losses.base import RelationalLoss
from lit_distill.losses.checks import require
from lit_distill.losses.directions import unit
from lit_distill.losses.gather import gathered
from lit_distill.losses.precision import fp32
from lit_distill.losses.products import centred_products


@fp32
def sp(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Difference of two similarity matrices; the formula stands in :class:`SP`.

    Args:
        student: Activations ``(B, ...)``, flattened.
        teacher: Activations ``(B, ...)`` of the same samples, flattened; of any size.

    Returns:
        A scalar; 0 for a single sample.

    Raises:
        InputError: If they are not activations of the same samples.

    Example:
        >>> x = torch.eye(3)
        >>> sp(2 * x, x)
        tensor(0.)
    """
    require(
        min(student.dim(), teacher.dim()) > 1 and len(student) == len(teacher),
        "student and teacher activations",
        f"{tuple(student.shape)} and {tuple(teacher.shape)}",
        "(B, ...) of the same samples",
    )
    difference = _similarities(student.flatten(1)) - _similarities(teacher.flatten(1))
    return difference.square().sum() / len(student) ** 2


def _similarities(x: Tensor) -> Tensor:
    """Similarities of each sample to all, every row of norm 1, with its mean apart: ``(B, D) -> (B, B + 1)``.

    A row is its mean and what is left, which are orthogonal: times the square root of B the mean is one more
    coordinate, and distances between rows are what they were. In a tight cluster all similarities of a row are nearly
    equal, and what is left would be lost if it were not computed by itself.
    """
    centred, with_mean, of_mean = centred_products(x)
    # x_i = c_i + m, so that x_i m = c_i m + m m, and x_i c_j = c_i c_j + m c_j
    mean = (with_mean + of_mean) * len(x) ** 0.5
    return unit(torch.cat([mean.unsqueeze(1), centred + with_mean], 1))


class SP(RelationalLoss):
    r"""The student copies how similar the samples of a batch are to each other.

    Paper: Tung, Mori, Similarity-Preserving Knowledge Distillation, ICCV 2019, https://arxiv.org/abs/1907.09682

    .. math:: \sum_{(s, t)} \frac{1}{B^2} \sum_i \Big\| \frac{G^s_i}{\| G^s_i \|_2} -
        \frac{G^t_i}{\| G^t_i \|_2} \Big\|_2^2, \quad G = F F^\top

    with one flattened activation a row of :math:`F`, and one sample a row :math:`G_i`. Activations may differ in all
    but the batch. The benchmark of CRD on CIFAR-100 takes the last map before pooling with weight 3000 at a batch of
    64.

    Shape:
        Activations ``(B, ...)`` of any shape on either side; output a scalar, summed over the pairs.

    Raises:
        InputError: If the activations have no dimension but the batch, or are not of the same samples.

    Traps:
        - Rows are normalised, each by itself, not the matrix as a whole.
        - The value falls as 1 / B: a weight belongs to a batch. Without ``gather`` it is that of each device.
        - Maps are flattened, not pooled: two images are alike if they are so position by position.

    Code: ``HobbitLong/RepDistiller:distiller_zoo/SP.py``, equal to the paper; the authors released none.

    Example:
        >>> outputs = Outputs(torch.zeros(4, 10), {"layer4": torch.randn(4, 8, 2, 2)})
        >>> SP(layers={"layer4": "layer4"}, weight=3000.0)(outputs, outputs, torch.arange(4))
        tensor(0.)
    """

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Differences of the similarities, summed over the pairs."""
        terms = []
        for s, t in self.pairs(student, teacher):
            terms.append(sp(gathered(s), gathered(t)) if self.gather else sp(s, t))
        return torch.stack(terms).sum()
