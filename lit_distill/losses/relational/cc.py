"""Correlation congruence: the correlations between samples are those of the teacher."""

import math
from typing import Any, Literal

from torch import Tensor, nn

from lit_distill.core.outputs import Outputs
from lit_distill.core.projectors import LinearProjector
from lit_distill.errors import InputError
from lit_distill.losses.base import RelationalLoss
from lit_distill.losses.checks import check_same_shape, require
from lit_distill.losses.gather import gathered
from lit_distill.losses.known_gradient import Gradient, with_gradient
from lit_distill.losses.precision import fp32
from lit_distill.losses.relational.cosines import check_vectors, cosine_gaps, gaps_and_gradient
from lit_distill.losses.views import pooled

_pooled = fp32(pooled)


@fp32
def cc_gaussian(student: Tensor, teacher: Tensor, gamma: float = 0.4, order: int = 2) -> Tensor:
    r"""Squared difference of two correlation matrices; the formula stands in :class:`CC`.

    Args:
        student: One embedding a sample, ``(B, D_s)``.
        teacher: One embedding a sample, ``(B, D_t)``.
        gamma: Sharpness of the Gaussian kernel.
        order: Last power of its Taylor series, P.

    Returns:
        A scalar, the mean over B² entries; 0 for a single sample.

    Raises:
        InputError: If the embeddings are not vectors of the same samples.

    Example:
        >>> import torch
        >>> x = torch.eye(3)
        >>> cc_gaussian(2 * x, x)
        tensor(0.)
    """
    check_vectors(student, teacher)
    return with_gradient(_congruence, student, teacher, gamma, order)


def _congruence(student: Tensor, teacher: Tensor, gamma: float, order: int) -> tuple[Tensor, Gradient]:
    (gaps, through_gaps), taught = gaps_and_gradient(student), cosine_gaps(teacher)
    a, b = 1 - gaps, 1 - taught
    # a^p - b^p = (a - b) q_p with q_1 = 1 and q_{p+1} = a q_p + b^p: only a - b can cancel, and it is taken of the gaps
    quotient: float | Tensor = 1.0
    slope: float | Tensor = 0.0
    for power, factor in _series(gamma, order):
        slope = slope + factor * quotient
        if power < order:
            quotient = a * quotient + b**power
    difference = (taught - gaps) * slope

    def gradient() -> Tensor:
        derivative: float | Tensor = 0.0
        for power, factor in reversed(_series(gamma, order)):
            derivative = derivative * a + factor * power
        return through_gaps(derivative * difference * (-2 / a.numel()))

    return difference.square().mean(), gradient


def _series(gamma: float, order: int) -> list[tuple[int, float]]:
    """Powers of the cosine from 1 on, and their factors."""
    factor, terms = math.exp(-2 * gamma), []
    for power in range(1, order + 1):
        factor *= 2 * gamma / power
        terms.append((power, factor))
    return terms


@fp32
def cc_adjacent(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Products of the absolute differences of consecutive samples.

    .. math:: \frac{1}{B - 1} \sum_{i=1}^{B-1} \sum_d |f^s_{id} - f^t_{id}| \, |f^s_{i+1,d} - f^t_{i+1,d}|

    Args:
        student: One embedding a sample, ``(B, D)``.
        teacher: One embedding a sample, ``(B, D)``.

    Returns:
        A scalar; 0 for a single sample.

    Raises:
        InputError: If the embeddings are not vectors of one shape.

    Example:
        >>> import torch
        >>> cc_adjacent(torch.ones(3, 2), torch.zeros(3, 2))
        tensor(2.)
    """
    check_vectors(student, teacher)
    check_same_shape(student, teacher, "embeddings")
    difference = (student - teacher).abs()
    return (difference[:-1] * difference[1:]).sum() / max(1, len(student) - 1)


class CC(RelationalLoss):
    r"""The student copies the correlations between the samples of a batch.

    Paper: Peng, Jin, Liu, Zhou, Wu, Liu, Li, Zhang, Correlation Congruence for Knowledge Distillation, ICCV 2019,
        https://arxiv.org/abs/1904.01802

    .. math:: \sum_{(s, t)} \frac{1}{B^2} \sum_{ij} (K^s_{ij} - K^t_{ij})^2, \quad
        K_{ij} = e^{-2 \gamma} \sum_{p=0}^{P} \frac{(2 \gamma)^p}{p!} \Big( \frac{f_i^\top f_j}{\| f_i \| \, \| f_j \|}
        \Big)^p

    That is the Gaussian kernel :math:`\exp(-\gamma \| \hat f_i - \hat f_j \|^2)` by its Taylor series, with weight 100
    in common ports. What the authors gave to the benchmark of CRD, mode ``code``, is another objective, with weight
    0.02:

    .. math:: \sum_{(s, t)} \frac{1}{B - 1} \sum_{i=1}^{B-1} \sum_d |z^s_{id} - z^t_{id}| \,
        |z^s_{i+1,d} - z^t_{i+1,d}|, \quad z = W f + b

    with a linear map of its own for either network, both trained with the student and dropped after. Maps are averaged
    over their positions.

    Args:
        mode: Which of the two objectives, ``paper`` or ``code``.
        gamma: Sharpness of the Gaussian kernel; of mode ``paper``.
        order: Last power of its Taylor series, P; of mode ``paper``.
        embedding: Length of the vectors z; of mode ``code``.

    Shape:
        Vectors ``(B, D)``, maps ``(B, C, H, W)`` or tokens ``(B, N, D)``, of any size on either side; output a scalar,
        summed over the pairs.

    Raises:
        InputError: If a number is out of its range, if ``mode`` is none of the two, if an activation is none of
            these, or if the loss is called in mode ``code`` before :meth:`build`.

    Traps:
        - Mode ``code`` depends on the order of the samples, is 0 when every second sample matches, and, as both maps
          are trained, when both give the same for whatever they get.
        - The value depends on the batch: without ``gather`` on the batch of each device.
        - torchdistill takes the norm of the difference, not its square, and does not normalise the embeddings.

    Code: ``AberHu/Knowledge-Distillation-Zoo:kd_losses/cc.py``, by others, equal to mode ``paper``;
        ``HobbitLong/RepDistiller:distiller_zoo/CC.py``, equal to mode ``code``.

    Example:
        >>> import torch
        >>> outputs = Outputs(torch.zeros(4, 10), {"layer4": torch.randn(4, 8, 2, 2)})
        >>> CC(layers={"layer4": "layer4"}, weight=100.0)(outputs, outputs, torch.arange(4))
        tensor(0.)
    """

    default_view = "pooled"

    def __init__(
        self,
        mode: Literal["paper", "code"] = "paper",
        gamma: float = 0.4,
        order: int = 2,
        embedding: int = 128,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        require(mode in ("paper", "code"), "mode", repr(mode), "paper or code")
        require(gamma > 0, "gamma", gamma, "positive")
        require(order >= 1, "order", order, "at least 1")
        require(embedding >= 1, "embedding", embedding, "at least 1")
        self.mode: Literal["paper", "code"] = mode
        self.gamma = gamma
        self.order = order
        self.embedding = embedding
        self.embeds_student = nn.ModuleList()
        self.embeds_teacher = nn.ModuleList()

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Create the linear maps of mode ``code``, on the device of the activations.

        Args:
            student: What the student said about the example batch.
            teacher: What the teacher said about it.
        """
        if self.mode == "paper":
            return
        pairs = [(pooled(s), pooled(t)) for s, t in self.pairs(student, teacher)]
        self.embeds_student = nn.ModuleList(self._linear(s) for s, _ in pairs)
        self.embeds_teacher = nn.ModuleList(self._linear(t) for _, t in pairs)

    def _linear(self, example: Tensor) -> LinearProjector:
        projector = LinearProjector()
        projector.build(example, example.new_empty(len(example), self.embedding))
        return projector

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Differences of the correlations, summed over the pairs."""
        if self.mode == "code" and len(self.embeds_student) != len(self.layers):
            raise InputError("CC must be built with the outputs of a dry run before it is called, got no build()")
        terms = []
        for i, pair in enumerate(self.pairs(student, teacher)):
            s, t = (_pooled(feature) for feature in pair)
            if self.mode == "code":
                s, t = self.embeds_student[i](s), self.embeds_teacher[i](t)
            if self.gather:
                s, t = gathered(s), gathered(t)
            terms.append(cc_gaussian(s, t, self.gamma, self.order) if self.mode == "paper" else cc_adjacent(s, t))
        return sum(terms[1:], terms[0])
