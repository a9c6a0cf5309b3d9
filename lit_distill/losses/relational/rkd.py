"""Relational knowledge distillation: distances and angles between the samples of a batch."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses.base import RelationalLoss
from lit_distill.losses.checks import require
from lit_distill.losses.gather import gathered
from lit_distill.losses.known_gradient import Gradient, with_gradient
from lit_distill.losses.precision import fp32

# Distances are bounded below as in the authors' code, which bounds their squares by 1e-12: two samples in one
# place have no direction to move in.
CLOSEST = 1e-6

# About how many numbers one tensor of a few samples' directions or angles has.
CHUNK = 2**17


@fp32
def rkd_distance(student: Tensor, teacher: Tensor) -> Tensor:
    r"""How much the distances between samples differ, each in units of their mean.

    .. math:: \frac{1}{B^2} \sum_{ij} \mathrm{smooth}_{L1} \Big( \frac{d^s_{ij}}{\mu^s} -
        \frac{d^t_{ij}}{\mu^t} \Big), \quad d_{ij} = \| x_i - x_j \|, \quad
        \mu = \frac{1}{B (B - 1)} \sum_{i \neq j} d_{ij}

    Args:
        student: One embedding a sample, ``(B, D_s)``.
        teacher: One embedding a sample, ``(B, D_t)``.

    Returns:
        A scalar; 0 for a single sample.

    Raises:
        InputError: If the embeddings are not vectors of the same samples.

    Example:
        >>> x = torch.eye(3)
        >>> rkd_distance(2 * x, x)
        tensor(0.)
    """
    _check_embeddings(student, teacher)
    return with_gradient(_distance_term, student, teacher)


@fp32
def rkd_angle(student: Tensor, teacher: Tensor) -> Tensor:
    r"""How much the angles within triples of samples differ.

    .. math:: \frac{1}{B^3} \sum_{aij} \mathrm{smooth}_{L1} \big( \langle e^s_{ai}, e^s_{aj} \rangle -
        \langle e^t_{ai}, e^t_{aj} \rangle \big), \quad e_{ai} = \frac{x_i - x_a}{\| x_i - x_a \|}

    Both sides are computed for a few samples a at a time, and so is the gradient: beside the embeddings that takes
    memory for a few times 2¹⁷ numbers. Where autograd must do more than that (see :func:`with_gradient`) it takes B² D
    and B³.

    Args:
        student: One embedding a sample, ``(B, D_s)``.
        teacher: One embedding a sample, ``(B, D_t)``.

    Returns:
        A scalar; 0 for a single sample.

    Raises:
        InputError: If the embeddings are not vectors of the same samples.

    Example:
        >>> x = torch.eye(3)
        >>> rkd_angle(2 * x, x)
        tensor(0.)
    """
    _check_embeddings(student, teacher)
    return with_gradient(_angle_term, student, teacher, plain=_angle)


def _distance_term(student: Tensor, teacher: Tensor) -> tuple[Tensor, Gradient]:
    (distances, mean), (wanted, unit) = _distances(student), _distances(teacher)
    relative, size = distances / mean, len(student)
    difference = relative - wanted / unit

    def gradient() -> Tensor:
        # of smooth L1, then through the distances and their mean, and back to the two samples of each pair
        of_relative = difference.clamp(-1, 1)
        of_distances = of_relative - (of_relative * relative).sum() / max(1, len(distances))
        apart = (distances * mean).masked_fill(distances <= CLOSEST, torch.inf)
        pairs = student.new_zeros(size, size)
        first, second = torch.triu_indices(size, size, 1, device=student.device)
        pairs[first, second] = of_distances.mul_(2 / size**2) / apart
        pairs += pairs.clone().mT
        centred = student - student.mean(0)
        return (pairs.sum(1, keepdim=True) * centred).addmm_(pairs, centred, alpha=-1)

    return _smooth_l1(difference) * 2 / size**2, gradient  # each pair twice, and the diagonal is 0


def _distances(x: Tensor) -> tuple[Tensor, Tensor]:
    """Distances ``(B, D) -> (B (B - 1) / 2,)`` of each pair of samples, and their mean."""
    # not |a|^2 + |b|^2 - 2ab, which loses all digits where samples lie close together far from the origin
    distances = torch.pdist(x).clamp(min=CLOSEST)
    # the bound only serves a single sample, which has no distances: for others no distance is below it
    return distances, (distances.sum() / max(1, len(distances))).clamp(min=CLOSEST)


def _smooth_l1(difference: Tensor) -> Tensor:
    near = difference.clamp(-1, 1)
    return (near * (difference - near / 2)).sum()


def _angle(student: Tensor, teacher: Tensor) -> Tensor:
    anchors = slice(0, len(student))
    (s, _), (t, _) = _directions(student, anchors), _directions(teacher, anchors)
    return F.smooth_l1_loss(s @ s.mT, t @ t.mT)


def _angle_term(student: Tensor, teacher: Tensor) -> tuple[Tensor, Gradient]:
    size = len(student)
    value, total = student.new_zeros(()), torch.zeros_like(student)
    step = max(1, CHUNK // max(1, size * max(size, student.shape[1], teacher.shape[1])))
    for first in range(0, size, step):
        anchors = slice(first, first + step)
        (s, length), (t, _) = _directions(student, anchors), _directions(teacher, anchors)
        cosines = s @ s.mT
        difference = cosines - t @ t.mT
        value += _smooth_l1(difference)
        near = difference.clamp_(-1, 1)
        # of a direction, less what would only make it longer
        of_samples = (near @ s).sub_(s.mul_((near * cosines).sum(2, keepdim=True)))
        of_samples.div_(length.masked_fill(length == 0, torch.inf))
        total += of_samples.sum(0)
        total[anchors] -= of_samples.sum(1)
    return value / size**3, lambda: total.mul_(2 / size**3)


def _directions(x: Tensor, anchors: slice) -> tuple[Tensor, Tensor]:
    """Unit vectors from some samples to all, ``(B, D) -> (A, B, D)``, 0 between two in one place, and distances."""
    differences = x.unsqueeze(0) - x[anchors].unsqueeze(1)
    length = torch.linalg.vector_norm(differences, dim=2, keepdim=True)
    return differences / length.clamp(min=1e-12), length


def _check_embeddings(student: Tensor, teacher: Tensor) -> None:
    require(
        student.dim() == teacher.dim() == 2 and len(student) == len(teacher),
        "student and teacher embeddings",
        f"{tuple(student.shape)} and {tuple(teacher.shape)}",
        "(B, D) vectors of the same samples",
    )


@fp32
def _embedding(feature: Tensor) -> Tensor:
    """One vector a sample: maps are averaged over their positions, in float32 (see :class:`RKD`)."""
    if feature.dim() == 4:
        return feature.mean((2, 3))
    if feature.dim() == 2:
        return feature
    raise InputError(f"layers must name vectors (B, D) or maps (B, C, H, W) for RKD, got {tuple(feature.shape)}")


class RKD(RelationalLoss):
    r"""The student copies distances and angles between the samples of a batch.

    Paper: Park, Kim, Lu, Cho, Relational Knowledge Distillation, CVPR 2019, https://arxiv.org/abs/1904.05068

    .. math:: \sum_{(s, t)} \frac{w_d}{B^2} \sum_{ij} \mathrm{smooth}_{L1} \Big( \frac{d^s_{ij}}{\mu^s} -
        \frac{d^t_{ij}}{\mu^t} \Big) + \frac{w_a}{B^3} \sum_{aij} \mathrm{smooth}_{L1} \big(
        \langle e^s_{ai}, e^s_{aj} \rangle - \langle e^t_{ai}, e^t_{aj} \rangle \big)

    with distances d, their mean :math:`\mu`, and directions :math:`e_{ai} = (x_i - x_a) / \| x_i - x_a \|`.
    Embeddings may differ in length and are not normalised. Maps are averaged over their positions, as the
    pooled embeddings of the paper and of the benchmark of CRD are.

    Args:
        distance_weight: Factor of the distances.
        angle_weight: Factor of the angles; 0 saves their memory, which grows with the cube of the batch.

    Shape:
        Vectors ``(B, D)`` or maps ``(B, C, H, W)``, of any size on either side; output a scalar, summed over
        the pairs.

    Raises:
        InputError: If a weight is negative, or an activation is neither a vector nor a map.

    Traps:
        - Distances by :math:`|a|^2 + |b|^2 - 2ab` lose all digits in half precision where samples lie close
          together. Here they come from differences, in float32. Under bfloat16 name the map before the
          pooling, not the pooled vector, which is already rounded.
        - The value depends on the batch: without ``gather`` on the batch of each device.
        - mmrazor normalises the embeddings by default; the authors do not.

    Code: ``lenscloth/RKD:metric/loss.py`` and ``HobbitLong/RepDistiller:distiller_zoo/RKD.py``, equal to the
        paper. As there, the means over B² and B³ count the zero entries of the diagonal.

    Example:
        >>> features = {"layer4": torch.randn(4, 8, 2, 2)}
        >>> outputs = Outputs(torch.zeros(4, 10), features)
        >>> RKD(layers={"layer4": "layer4"})(outputs, outputs, torch.arange(4))
        tensor(0.)
    """

    default_view = "pooled"

    def __init__(self, distance_weight: float = 25.0, angle_weight: float = 50.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require(distance_weight >= 0, "distance_weight", distance_weight, "0 or positive")
        require(angle_weight >= 0, "angle_weight", angle_weight, "0 or positive")
        self.distance_weight = distance_weight
        self.angle_weight = angle_weight

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Weighted differences of distances and angles, summed over the pairs."""
        terms = []
        for features in self.pairs(student, teacher):
            s, t = (_embedding(feature) for feature in features)
            if self.gather:
                s, t = gathered(s), gathered(t)
            terms.append(self.distance_weight * rkd_distance(s, t))
            if self.angle_weight > 0:
                terms.append(self.angle_weight * rkd_angle(s, t))
        return torch.stack(terms).sum()
