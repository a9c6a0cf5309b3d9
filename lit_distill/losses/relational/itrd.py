"""Information theoretic representation distillation: channels that correlate, and similarities that are shared."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses.base import RelationalLoss
from lit_distill.losses.checks import check_same_shape, require
from lit_distill.losses.directions import unit
from lit_distill.losses.gather import gathered
from lit_distill.losses.precision import fp32
from lit_distill.losses.relational.cosines import check_vectors, cosine_gaps
from lit_distill.losses.views import pooled


@fp32
def itrd_correlation(student: Tensor, teacher: Tensor, alpha: float = 1.5) -> Tensor:
    r"""How far the channels are from correlating; the formula stands in :class:`ITRD`.

    Args:
        student: One embedding a sample, in the teacher's space, ``(B, D)``.
        teacher: One embedding a sample, ``(B, D)``.
        alpha: Order of the entropy.

    Returns:
        A scalar: at least :math:`\log_2 D - 2 \alpha \log_2 B`, where all channels correlate.

    Raises:
        InputError: If the shapes differ.

    Example:
        >>> x = torch.randn(4, 8)
        >>> torch.allclose(itrd_correlation(2 * x + 1, x), torch.tensor(3 - 2 * 1.5 * 2))
        True
    """
    check_same_shape(student, teacher, "embeddings")
    s, t = (unit(x - x.mean(0), 0) for x in (student, teacher))
    size = len(s)
    # the correlation c has the factor (B - 1) / B; half the square of a chord is one less the cosine, with all digits
    from_one = 1 / size + (size - 1) / size * (s - t).square().sum(0) / 2
    return from_one.pow(2 * alpha).sum().log2()


@fp32
def itrd_mutual(student: Tensor, teacher: Tensor) -> Tensor:
    r"""How much of the student's similarities the teacher does not share; the formula stands in :class:`ITRD`.

    Args:
        student: One embedding a sample, ``(B, D_s)``.
        teacher: One embedding a sample, ``(B, D_t)``.

    Returns:
        A scalar in [0, 1].

    Raises:
        InputError: If the embeddings are not vectors of the same samples.

    Example:
        >>> x = torch.eye(3)
        >>> bool(itrd_mutual(x, x) < 1e-6), itrd_mutual(torch.ones(2, 1), torch.eye(2))
        (True, tensor(0.5000))
    """
    check_vectors(student, teacher)
    s, t = cosine_gaps(student), cosine_gaps(teacher)
    # G_s squared less (G_s G_t) squared, without the difference of two numbers that are nearly the same
    return ((1 - s).square() * t * (2 - t)).mean()


class ITRD(RelationalLoss):
    r"""The student's channels correlate with the teacher's, and samples are alike only where the teacher's are.

    Paper: Miles, Lopez-Rodriguez, Mikolajczyk, Information Theoretic Representation Distillation, BMVC 2022,
        https://arxiv.org/abs/2112.00459

    .. math:: \lambda_c \log_2 \sum_d | c_d - 1 |^{2 \alpha} + \lambda_m \sum_{ij} \Big[ \Big(
        \frac{G^s_{ij}}{\mathrm{tr} \, G^s} \Big)^2 - \Big( \frac{G^s_{ij} G^t_{ij}}{\mathrm{tr} (G^s \odot G^t)}
        \Big)^2 \Big], \quad c_d = \frac{1}{B} \sum_b z^s_{bd} \, z^t_{bd}

    with z the embeddings of mean 0 and standard deviation 1 in each channel d, and G the cosines of the samples. A
    linear map of the student's embeddings to the teacher's length is trained with it and dropped after; where both are
    equally long, only the first part takes it. The authors have weight 1 beside cross entropy with weight 1.

    Args:
        correlation_weight: Factor :math:`\lambda_c` of the correlations.
        mutual_weight: Factor :math:`\lambda_m` of the similarities.
        alpha: Order of the entropy that the correlations stand for.

    Shape:
        Vectors ``(B, D)``, maps ``(B, C, H, W)`` or tokens ``(B, N, D)``, of any size on either side, the last two
        averaged; output a scalar, summed over the pairs.

    Raises:
        InputError: If a number is out of its range, an activation is none of these, or the loss is called before
            :meth:`build`.

    Traps:
        - The value is negative near its optimum: a logarithm of something small.
        - Standard deviations are divided by B - 1 and correlations by B: no c is above (B - 1) / B, which keeps the
          logarithm finite, and makes the value depend on the batch. Without ``gather`` it is that of each device.

    Code: ``roymiles/ITRD:distiller_zoo/IT.py``, equal to this; a channel of the same value for all samples, which is
        nan there, correlates with none here.

    Example:
        >>> student = Outputs(torch.zeros(4, 10), {"pool": torch.randn(4, 8)})
        >>> teacher = Outputs(torch.zeros(4, 10), {"pool": torch.randn(4, 16)})
        >>> loss = ITRD(layers={"pool": "pool"})
        >>> loss.build(student, teacher)
        >>> loss(student, teacher, torch.arange(4)).shape
        torch.Size([])
    """

    default_view = "pooled"

    def __init__(
        self, correlation_weight: float = 2.0, mutual_weight: float = 0.05, alpha: float = 1.5, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        require(correlation_weight >= 0, "correlation_weight", correlation_weight, "0 or positive")
        require(mutual_weight >= 0, "mutual_weight", mutual_weight, "0 or positive")
        require(alpha >= 0.5, "alpha", alpha, "at least 0.5")
        self.correlation_weight = correlation_weight
        self.mutual_weight = mutual_weight
        self.alpha = alpha
        self.embeddings = nn.ModuleList()

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Create the linear map of each pair, on the device of the student's features.

        Args:
            student: What the student said about the example batch.
            teacher: What the teacher said about it.
        """
        pairs = [(pooled(s), pooled(t)) for s, t in self.pairs(student, teacher)]
        like = pairs[0][0]
        dtype = torch.promote_types(like.dtype, torch.get_default_dtype())  # a dry run may be in half precision
        maps = nn.ModuleList(nn.Linear(s.shape[1], t.shape[1]) for s, t in pairs)
        self.embeddings = maps.to(device=like.device, dtype=dtype)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Weighted correlations and similarities, summed over the pairs."""
        if len(self.embeddings) != len(self.layers):
            raise InputError("ITRD must be built with the outputs of a dry run before it is called, got no build()")
        terms = []
        for embed, pair in zip(self.embeddings, self.pairs(student, teacher), strict=True):
            s, t = (fp32(pooled)(feature) for feature in pair)
            if self.gather:
                s, t = gathered(s), gathered(t)
            assert isinstance(embed, nn.Linear)
            mapped = fp32(F.linear)(s, embed.weight, embed.bias)
            similar = s if s.shape == t.shape else mapped
            terms.append(self.correlation_weight * itrd_correlation(mapped, t, self.alpha))
            terms.append(self.mutual_weight * itrd_mutual(similar, t))
        return torch.stack(terms).sum()
