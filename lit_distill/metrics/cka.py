"""How similar two layers are, whatever their widths."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_distill.errors import InputError
from lit_distill.losses.precision import fp32

# The unbiased estimate divides by n (n - 3).
FEWEST = 4


@fp32
def hsic(x: Tensor, y: Tensor) -> Tensor:
    r"""Unbiased estimate of the Hilbert-Schmidt independence criterion of two sets of features, a scalar.

    .. math:: \frac{1}{n(n-3)} \Big[ \mathrm{tr}(\tilde K \tilde L)
        + \frac{1^\top \tilde K 1 \; 1^\top \tilde L 1}{(n-1)(n-2)}
        - \frac{2}{n-2} 1^\top \tilde K \tilde L 1 \Big]

    where :math:`\tilde K = XX^\top` and :math:`\tilde L = YY^\top` with zeros on their diagonals (Song et
    al., "Feature Selection via Dependence Maximization", JMLR 2012). It may be negative.

    Args:
        x: Features ``(n, ...)``, flattened to ``(n, p)``.
        y: Features ``(n, ...)`` of the same samples, flattened to ``(n, q)``.

    Raises:
        InputError: When the numbers of samples differ or are below 4.
    """
    n = len(x)
    if n != len(y) or n < FEWEST:
        raise InputError(f"features: {n} samples against {len(y)}; accepted are equal numbers of at least {FEWEST}")
    k, el = _gram(x), _gram(y)
    trace = (k * el).sum()
    mean = k.sum() * el.sum() / ((n - 1) * (n - 2))
    cross = 2 * (k.sum(0) * el.sum(0)).sum() / (n - 2)
    return (trace + mean - cross) / (n * (n - 3))


def cka(x: Tensor, y: Tensor) -> Tensor:
    r"""Linear centred kernel alignment of two sets of features, a scalar, from unbiased estimates.

    .. math:: \frac{\mathrm{HSIC}(X, Y)}{\sqrt{\mathrm{HSIC}(X, X)\,\mathrm{HSIC}(Y, Y)}}

    Args:
        x: Features ``(n, ...)``, flattened to ``(n, p)``.
        y: Features ``(n, ...)`` of the same samples, flattened to ``(n, q)``.

    Raises:
        InputError: When the numbers of samples differ or are below 4.

    Example:
        >>> x = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
        >>> round(cka(x, 5 * x.roll(1, dims=1) - 2).item(), 4)  # rotated, scaled and shifted
        1.0
    """
    return hsic(x, y) / (hsic(x, x).sqrt() * hsic(y, y).sqrt())


class CKA(Metric):
    r"""Linear centred kernel alignment of a layer of the student and one of the teacher.

    1 for features that differ by a rotation, a shift and a scale; about 0 for unrelated ones. The widths may
    differ. The HSIC terms are summed over batches, each times its number of samples, and then divided:

    .. math:: \frac{\sum_b n_b \mathrm{HSIC}_b(X, Y)}
        {\sqrt{\sum_b n_b \mathrm{HSIC}_b(X, X)} \sqrt{\sum_b n_b \mathrm{HSIC}_b(Y, Y)}}

    Because the estimate of each batch is unbiased (:func:`hsic`), the value does not depend on the batch size
    as the common biased one does, and no features are kept (memory: one Gram matrix of a batch). Batches
    of fewer than 4 samples, for which the estimate is undefined, are left out. The value is nan if nothing is
    left or a layer is constant.

    Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019,
    https://arxiv.org/abs/1905.00414; over batches: Nguyen, Raghu, Kornblith, "Do Wide and Deep Networks Learn
    the Same Things?", ICLR 2021, https://arxiv.org/abs/2010.15327.

    Example:
        >>> x = torch.randn(16, 3, 2, 2, generator=torch.Generator().manual_seed(0))
        >>> metric = CKA()
        >>> metric.update(x, 3 * x)
        >>> round(metric.compute().item(), 4)
        1.0
    """

    is_differentiable = True
    higher_is_better = True
    full_state_update = False

    xy: Tensor
    xx: Tensor
    yy: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("xy", "xx", "yy"):
            self.add_state(name, torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, student: Tensor, teacher: Tensor) -> None:
        """Add one batch.

        Args:
            student: Features of the student ``(B, ...)``.
            teacher: Features of the teacher ``(B, ...)``; all axes but the first may differ.

        Raises:
            InputError: When the batch sizes differ.
        """
        n = len(student)
        if n < FEWEST and n == len(teacher):
            return
        self.xy += n * hsic(student, teacher)
        self.xx += n * hsic(student, student)
        self.yy += n * hsic(teacher, teacher)

    def compute(self) -> Tensor:
        """The alignment so far, a scalar of at most about 1."""
        return self.xy / (self.xx.sqrt() * self.yy.sqrt())


def _gram(features: Tensor) -> Tensor:
    # Shifting the features leaves the estimate as it is and keeps a large common mean from eating its digits.
    features = features.flatten(1)
    features = features - features.mean(0)
    gram = features @ features.T
    return gram.fill_diagonal_(0)
