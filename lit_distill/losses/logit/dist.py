"""Distillation from a stronger teacher: correlations instead of equal probabilities."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from lit_distill.core.outputs import Outputs
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import check_same_shape, check_temperature, require
from lit_distill.losses.divergences.rows import divided, through_softmax
from lit_distill.losses.gather import gathered
from lit_distill.losses.known_gradient import Gradient, with_gradient
from lit_distill.losses.precision import fp32

# Added to the product of the two deviations, as in the authors' code: probabilities that do not vary have no direction.
SMALL = 1e-8


@fp32
def dist(student: Tensor, teacher: Tensor, beta: float = 1.0, gamma: float = 1.0, temperature: float = 4.0) -> Tensor:
    r"""How far the probabilities of both networks are from a linear relation, over classes and over samples.

    The formula is that of :class:`DIST`.

    Args:
        student: Logits of the student, ``(B, C)``.
        teacher: Logits of the teacher, ``(B, C)``.
        beta: Factor of the relation over the classes of each sample.
        gamma: Factor of the relation over the samples of each class.
        temperature: Divides both logits.

    Returns:
        A scalar.

    Example:
        >>> logits = 4 * torch.eye(4)
        >>> dist(logits, logits).abs() < 1e-4
        tensor(True)
    """
    check_same_shape(student, teacher, "logits")
    require(student.dim() == 2, "student logits", tuple(student.shape), "of shape (B, C)")
    check_temperature(temperature)
    term = partial(_term, weights={1: beta, 0: gamma})
    return temperature**2 * with_gradient(term, student, teacher, temperature)


def _term(student: Tensor, teacher: Tensor, temperature: float, weights: dict[int, float]) -> tuple[Tensor, Gradient]:
    q, p = (divided(logits, temperature).softmax(-1) for logits in (student, teacher))
    correlations = {dim: _correlation(q, p, dim) for dim in weights}
    value = sum((weight * (1 - correlations[dim][0].mean()) for dim, weight in weights.items()), q.new_zeros(()))

    def gradient() -> Tensor:
        g = torch.zeros_like(q)
        for dim, weight in weights.items():
            correlation, length, other = correlations[dim]
            product = length * other + SMALL
            share = weight / correlation.numel()
            # a class or sample that does not vary has length 0, and no direction
            along = torch.where(length > 0, share * correlation * other / (length * product), 0)
            g.add_(_centred(q, dim).mul_(along.unsqueeze(dim)))
            g.sub_(_centred(p, dim).mul_((share / product).unsqueeze(dim)))
        return through_softmax(g.mul_(q), q).div_(temperature)

    return value, gradient


def _centred(x: Tensor, dim: int) -> Tensor:
    return x - x.mean(dim, keepdim=True)


def _correlation(a: Tensor, b: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pearson's correlation along one dimension, in [-1, 1], and both deviations times the root of the size."""
    a, b = _centred(a, dim), _centred(b, dim)
    lengths = torch.linalg.vector_norm(a, dim=dim), torch.linalg.vector_norm(b, dim=dim)
    return (a * b).sum(dim) / (lengths[0] * lengths[1] + SMALL), *lengths


class DIST(LogitLoss):
    r"""The student's probabilities follow the teacher's up to shift and scale, over classes and over samples.

    Paper: Huang et al., Knowledge Distillation from A Stronger Teacher, NeurIPS 2022,
        https://arxiv.org/abs/2205.10536

    .. math:: T^2 \Big[ \beta \Big( 1 - \frac{1}{B} \sum_b \rho(q_{b:}, p_{b:}) \Big)
        + \gamma \Big( 1 - \frac{1}{C} \sum_c \rho(q_{:c}, p_{:c}) \Big) \Big]

    with Pearson's correlation :math:`\rho` of the probabilities of teacher p and student q, softened by T. The authors
    take weight 2 beside cross entropy with weight 1, T = 4 on CIFAR-100 and T = 1 on ImageNet.

    Args:
        beta: Factor of the relation over the classes of each sample.
        gamma: Factor of the relation over the samples of each class.
        temperature: Divides the logits of both networks before the softmax.
        gather: Relate the samples of all ranks instead of this rank's alone (with gradients); without it the value of
            the second relation depends on how many devices share the batch.

    Shape:
        Logits ``(B, C)`` of both; output a scalar.

    Raises:
        InputError: If the temperature is not positive, a factor is negative or the logits are not ``(B, C)`` of one
            shape.

    Traps:
        - Probabilities are related, not logits.
        - A class whose probability varies by less than about 1e-4 over the batch hardly counts, however well it is
          followed: its correlation is divided by a norm plus 1e-8. Over 1000 classes the value therefore is not 0 for
          a student that equals its teacher.
        - A single sample has no relation over samples: the second part is then constant.
        - torchdistill's ``DISTPlusLoss`` adds the correlation over channels instead of subtracting it.

    Code: ``hunto/image_classification_sota:lib/models/losses/dist_kd.py`` (to which ``hunto/DIST_KD`` points), equal to
        the paper.

    Example:
        >>> outputs = Outputs(4 * torch.eye(4))
        >>> DIST()(outputs, outputs, torch.arange(4)).abs() < 1e-4
        tensor(True)
    """

    def __init__(
        self,
        beta: float = 1.0,
        gamma: float = 1.0,
        temperature: float = 4.0,
        gather: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        require(beta >= 0, "beta", beta, "0 or positive")
        require(gamma >= 0, "gamma", gamma, "0 or positive")
        check_temperature(temperature)
        self.beta = beta
        self.gamma = gamma
        self.temperature = temperature
        self.gather = gather

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Both relations with their factors."""
        s, t = student.logits, teacher.logits
        if self.gather:
            s, t = gathered(s), gathered(t)
        return dist(s, t, self.beta, self.gamma, self.temperature)
