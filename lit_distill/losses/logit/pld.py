"""Plackett-Luce distillation: the student learns the teacher's ranking of the classes, the label first."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from lit_distill.core.outputs import Outputs
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import check_same_shape, check_temperature
from lit_distill.losses.divergences.rows import divided, reduce_rows
from lit_distill.losses.known_gradient import Gradient, with_gradient
from lit_distill.losses.labels import hard_labels
from lit_distill.losses.precision import fp32


def ranking(teacher: Tensor, target: Tensor) -> Tensor:
    """The classes in the order that the student shall learn: the label, then by the teacher's logits.

    Args:
        teacher: Logits of the teacher, ``(B, C)``.
        target: Class indices ``(B,)``, or class probabilities ``(B, C)`` of which the likeliest class counts.

    Returns:
        Class indices ``(B, C)``, best first.

    Example:
        >>> ranking(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([1]))
        tensor([[1, 0, 2]])
    """
    labels = hard_labels(target, teacher).unsqueeze(-1)
    return teacher.scatter(-1, labels, torch.inf).argsort(dim=-1, descending=True, stable=True)


@fp32
def pld(student: Tensor, teacher: Tensor, target: Tensor, temperature: float = 1.0) -> Tensor:
    r"""Negative log-likelihood of the teacher's ranking, each choice weighted by the teacher's confidence in it.

    The formula is that of :class:`PLD`.

    Args:
        student: Logits of the student, ``(B, C)``.
        teacher: Logits of the teacher, ``(B, C)``.
        target: Class indices ``(B,)``, or class probabilities ``(B, C)`` of which the likeliest class counts.
        temperature: Divides the teacher's logits in the weights.

    Returns:
        A scalar.

    Example:
        >>> pld(torch.zeros(1, 4), torch.tensor([[90.0, 0.0, 0.0, 0.0]]), torch.tensor([0]))
        tensor(1.3863)
    """
    check_same_shape(student, teacher, "logits")
    check_temperature(temperature)
    return reduce_rows(with_gradient(partial(_term, target=target), student, teacher, temperature))


def _term(student: Tensor, teacher: Tensor, temperature: float, target: Tensor) -> tuple[Tensor, Gradient]:
    order = ranking(teacher, target)
    weights = divided(teacher, temperature).softmax(-1).gather(-1, order)
    scores = student.gather(-1, order)
    scores = scores - scores.amax(-1, keepdim=True)

    def in_class_order(x: Tensor) -> Tensor:
        return torch.empty_like(x).scatter_(-1, order, x)

    if _plain_sums_do(scores):
        left = scores.flip(-1).exp().cumsum(-1).flip(-1)

        def gradient() -> Tensor:
            taken = left.reciprocal_().mul_(weights).cumsum_(-1)
            return in_class_order(scores.exp_().mul_(taken).sub_(weights))

        return left.log().sub_(scores).mul_(weights).sum(-1), gradient

    log_left = scores.flip(-1).logcumsumexp(-1).flip(-1)

    def gradient_of_logs() -> Tensor:
        taken = (weights.log() - log_left).logcumsumexp(-1)
        return in_class_order(taken.add_(scores).exp_().sub_(weights))

    return (weights * (log_left - scores)).sum(-1), gradient_of_logs


def _plain_sums_do(scores: Tensor) -> bool:
    """Whether sums of exponentials of scores up to 0 keep their digits, which takes a tenth of the time of logarithms.

    An accelerator, which sums up logarithms as fast, is not made to wait for the answer.
    """
    return scores.device.type == "cpu" and not torch.compiler.is_compiling() and bool((scores > -60).all())


class PLD(LogitLoss):
    r"""The student chooses the classes one after the other in the teacher's order, the label first.

    Paper: Bassam et al., PLD: A Choice-Theoretic List-Wise Knowledge Distillation, NeurIPS 2025,
        https://arxiv.org/abs/2506.12542

    .. math:: \frac{1}{B} \sum_b \sum_{k=1}^{C} p_{\pi_k} \Big( \log \sum_{l \geq k} \exp z^s_{\pi_l}
        - z^s_{\pi_k} \Big)

    with the ranking :math:`\pi` of a sample, its label first and the other classes by descending teacher logit, and the
    teacher's probabilities p, softened by T. Convex in the student's logits. The first choice is cross entropy with
    the label: the authors train with this term alone.

    Args:
        temperature: Divides the teacher's logits in the weights; the ranking does not depend on it. The paper finds 1
            best on ImageNet and takes 4 on CIFAR-100.

    Shape:
        Logits ``(B, C)`` of both; target ``(B,)``, or ``(B, C)`` of which the likeliest class counts; output a
        scalar.

    Raises:
        InputError: If the temperature is not positive, the shapes of the logits differ or the target does not fit
            them.

    Traps:
        - The weight of the label is the teacher's probability of it: where the teacher is wrong the label counts
          little.
        - A likelihood, not a divergence: the value is not 0 for a student that equals its teacher.
        - Needs a sort of the classes of each sample.

    Code: ``allegro/allRank:allrank/models/losses/listMLE.py`` is the loss with equal weights; the authors released
        none. This follows the formula of the paper.

    Example:
        >>> student, teacher = Outputs(torch.zeros(1, 4)), Outputs(torch.tensor([[90.0, 0.0, 0.0, 0.0]]))
        >>> PLD()(student, teacher, torch.tensor([0]))
        tensor(1.3863)
    """

    def __init__(self, temperature: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_temperature(temperature)
        self.temperature = temperature

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Weighted negative log-likelihood of the ranking, mean over the batch."""
        return pld(student.logits, teacher.logits, target, self.temperature)
