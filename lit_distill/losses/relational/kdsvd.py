"""Distillation by singular value decomposition: how the main directions of two layers relate to each other."""

from itertools import pairwise
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.core.projectors import LinearProjector
from lit_distill.errors import InputError
from lit_distill.losses.base import RelationalLoss
from lit_distill.losses.checks import require
from lit_distill.losses.precision import fp32
from lit_distill.losses.views import as_map

Columns = Literal["channels", "width"]

#: How many more singular vectors of the student may match one of the teacher.
CANDIDATES = 3


class _TopEigenvectors(torch.autograd.Function):
    """Eigenvectors of the largest eigenvalues, ``(B, N, N) -> (B, N, K)``.

    The derivative divides by gaps between eigenvalues. Those of a dead channel are all 0, and torch's own gives not a
    number for them even where nothing depends on their vectors; here what no gap tells apart moves nothing.
    """

    @staticmethod
    def forward(ctx: Any, symmetric: Tensor, count: int) -> Tensor:
        values, vectors = torch.linalg.eigh(symmetric)
        ctx.save_for_backward(values, vectors)
        return vectors[..., -count:].flip(-1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        values, vectors = ctx.saved_tensors
        top, count = vectors.flip(-1), gradient.shape[-1]
        gaps = values.flip(-1)[:, None, :count] - values.flip(-1)[:, :, None]
        apart = gaps.abs() > torch.finfo(gaps.dtype).eps * values.shape[-1] * values[:, -1:, None]
        turns = torch.where(apart, top.mT @ gradient / gaps.where(apart, 1), 0)
        half = top @ turns @ top[..., :count].mT
        return (half + half.mT) / 2, None


@fp32
def top_singular_vectors(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest singular values and their right singular vectors; the gradient flows through the vectors.

    Args:
        x: Matrices ``(B, P, C)``.
        count: How many, K; fewer if P or C is smaller.

    Returns:
        Values ``(B, K)``, without gradients, and unit vectors ``(B, C, K)`` whose entries do not sum to less than 0:
        the sign, which a decomposition leaves open, is the same on every device.

    Example:
        >>> values, vectors = top_singular_vectors(torch.tensor([[[0.0, -3.0], [1.0, 0.0]]]), 1)
        >>> values, vectors.flatten().abs()
        (tensor([[3.]]), tensor([0., 1.]))
    """
    count = min(count, *x.shape[1:])
    wide = x.shape[1] < x.shape[2]
    vectors = cast(Tensor, _TopEigenvectors.apply(x @ x.mT if wide else x.mT @ x, count))
    if wide:
        vectors = F.normalize(x.mT @ vectors, dim=1)
    signs = torch.where(vectors.detach().sum(1, keepdim=True) < 0, -1, 1)
    return torch.linalg.vector_norm((x @ vectors).detach(), dim=1), vectors * signs


@fp32
def kdsvd_directions(
    student: Tensor, teacher: Tensor, k: int = 1, columns: Columns = "channels"
) -> tuple[Tensor, Tensor]:
    """Main directions of one layer of the teacher, and for each the student's that is most like it.

    Args:
        student: A map ``(B, C, H, W)``.
        teacher: A map ``(B, C, H', W')``; with columns ``width`` of as wide a map and any number of channels.
        k: How many directions.
        columns: What the entries of a direction belong to.

    Returns:
        Those of the student and of the teacher, ``(B, C, k)`` (``(B, W, k)``), times the teacher's singular values as
        a unit vector.

    Raises:
        InputError: If the directions of both are not of one length.
    """
    s, t = _matrices(student, columns), _matrices(teacher, columns)
    require(
        s.shape[2] == t.shape[2] and len(s) == len(t),
        f"student and teacher {columns}",
        f"{tuple(student.shape)} and {tuple(teacher.shape)}",
        "equally many, of the same samples",
    )
    lengths, taught = top_singular_vectors(t, k)
    _, candidates = top_singular_vectors(s, k + CANDIDATES)
    cosines = (candidates.mT @ taught).detach()
    best = cosines.abs().argmax(1, keepdim=True)
    signs = cosines.gather(1, best).sign()
    learnt = candidates.gather(2, best.expand(-1, candidates.shape[1], -1)) * signs
    scale = F.normalize(lengths, dim=1).unsqueeze(1)
    return learnt * scale, taught * scale


@fp32
def kdsvd_relation(before: Tensor, after: Tensor) -> Tensor:
    """Gaussian of the difference of each two entries of two layers' directions, ``(B, C, k)`` to ``(B, C', C, k)``."""
    return torch.exp(-(after.unsqueeze(2) - before.unsqueeze(1)).square() / 8)


def _matrices(x: Tensor, columns: Columns) -> Tensor:
    return x.flatten(1, 2) if columns == "width" else x.flatten(2).mT


class KDSVD(RelationalLoss):
    r"""The main directions of consecutive layers relate to each other as the teacher's do.

    Paper: Lee, Kim, Song, Self-supervised Knowledge Distillation Using Singular Value Decomposition, ECCV 2018,
        https://arxiv.org/abs/1807.06819

    .. math:: \frac{1}{B} \sum_b \sum_{l > 1} \sum_{ijk} \big( R^s_{lijk} - R^t_{lijk} \big)^2, \quad
        R_{lijk} = \exp \Big( - \frac{1}{8} (\sigma_{lk} v_{l,ik} - \sigma_{l-1,k} v_{l-1,jk})^2 \Big)

    with right singular vectors v of each image's matrix of positions by channels, and the teacher's singular values
    :math:`\sigma` as one unit vector (1 if ``k`` is 1) for both networks. Of the student's ``k + 3`` first vectors the
    one most like the teacher's counts, with its sign. Where the channels of a pair differ, a linear map of the
    student's, built from the shapes of a dry run and dropped after training, makes them as many; the authors' pairs do
    not differ. The benchmark of CRD takes weight 1.

    Args:
        k: How many singular vectors of a layer.
        columns: What the matrix's columns are: ``channels``; or ``width``, for the matrix of channels and rows by
            columns of the image that common ports decompose.
        layers: Student module path to teacher module path, from shallow to deep. Default: the stages of both.
        weight: Factor of this term in the total.
        teacher: Name of the ensemble member this term listens to; default: the teacher as a whole.

    Shape:
        Maps ``(B, C, H, W)``, or tokens ``(B, N, D)`` that fill a square, of at least two layers; with columns
        ``width`` of the same W; output a scalar.

    Raises:
        InputError: If ``k`` is below 1, ``columns`` is none of the two, fewer than two pairs of layers are given,
            widths differ in columns ``width``, or the loss is called before :meth:`build`.

    Traps:
        - The sign of a singular vector is open, and the value depends on that of the teacher's in one layer against
          the next. Here the entries of one sum to something positive; elsewhere it is the routine's choice, which
          differs between CPU and GPU.
        - Where two singular values meet, their vectors turn in any direction: there the gradient is cut to 0, as it is
          in ports for what is not finite.
        - Ports that keep the reshape of TensorFlow's layout on torch's decompose another matrix: ``width``.
        - The largest relation of two layers has C times C' entries a sample.

    Code: ``HobbitLong/RepDistiller:distiller_zoo/KDSVD.py``, equal to columns ``channels`` up to the sign, and
        ``megvii-research/mdistiller:mdistiller/distillers/KDSVD.py``, equal to ``width``; the authors' is
        ``sseung0703/SSKD_SVD:nets/Distillation.py``, for TensorFlow.

    Example:
        >>> features = {"layer1": torch.rand(4, 8, 4, 4), "layer2": torch.rand(4, 16, 2, 2)}
        >>> outputs = Outputs(torch.zeros(4, 10), features)
        >>> loss = KDSVD(layers={"layer1": "layer1", "layer2": "layer2"})
        >>> loss.build(outputs, outputs)
        >>> bool(loss(outputs, outputs, torch.arange(4)) < 1e-9)
        True
    """

    default_view = "stages"

    def __init__(
        self,
        k: int = 1,
        columns: Columns = "channels",
        layers: dict[str, str] | None = None,
        weight: float = 1.0,
        teacher: str | None = None,
    ) -> None:
        super().__init__(layers=layers, weight=weight, teacher=teacher)
        require(k >= 1, "k", k, "at least 1")
        require(columns in ("channels", "width"), "columns", repr(columns), "channels or width")
        self.k = k
        self.columns: Columns = columns
        self.projectors: nn.ModuleList | None = None

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Create linear maps where channels differ, on the device of the student's maps.

        Args:
            student: What the student said about the example batch.
            teacher: What the teacher said about it.
        """
        require(
            len(self.layers) > 1, "layers", self.layers, "two pairs at least, of which KDSVD compares two at a time"
        )
        self.projectors = nn.ModuleList(self._bridge(as_map(s), as_map(t)) for s, t in self.pairs(student, teacher))

    def _bridge(self, student: Tensor, teacher: Tensor) -> nn.Module:
        if self.columns == "width" or student.shape[1] == teacher.shape[1]:
            return nn.Identity()
        projector = LinearProjector()
        projector.build(student, teacher)
        return projector

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Differences of the relations of consecutive layers, summed."""
        if self.projectors is None:
            raise InputError("KDSVD must be built with the outputs of a dry run before it is called, got no build()")
        directions = [
            kdsvd_directions(bridge(as_map(s)), as_map(t), self.k, self.columns)
            for bridge, (s, t) in zip(self.projectors, self.pairs(student, teacher), strict=True)
        ]
        terms = [
            (kdsvd_relation(s, s_next) - kdsvd_relation(t, t_next)).square().sum()
            for (s, t), (s_next, t_next) in pairwise(directions)
        ]
        return torch.stack(terms).sum() / len(student.logits)
