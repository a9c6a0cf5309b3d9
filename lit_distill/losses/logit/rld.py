"""Knowledge distillation with refined logits: a wrong teacher is not followed where it contradicts the label."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from lit_distill.core.outputs import Outputs
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import check_same_shape, check_temperature, require
from lit_distill.losses.divergences.rows import divided, kl_rows, reduce_rows, softened
from lit_distill.losses.known_gradient import Gradient, with_gradient
from lit_distill.losses.labels import apart, hard_labels, log_binary
from lit_distill.losses.precision import fp32


@fp32
def rld(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    confidence_temperature: float = 1.0,
) -> Tensor:
    r"""Confidence of the sample, and correlation of the classes that the teacher ranks below the label.

    The formula is that of :class:`RLD`.

    Args:
        student: Logits of the student, ``(B, C)``.
        teacher: Logits of the teacher, ``(B, C)``.
        target: Class indices ``(B,)``, or class probabilities ``(B, C)`` of which the likeliest class counts.
        alpha: Factor of the confidence.
        beta: Factor of the correlation.
        temperature: Divides both logits in the correlation.
        confidence_temperature: Divides both logits in the confidence.

    Returns:
        A scalar.

    Example:
        >>> logits = torch.tensor([[3.0, 1.0, 0.0]])
        >>> rld(logits, logits, torch.tensor([0]))
        tensor(0.)
    """
    check_same_shape(student, teacher, "logits")
    labels = hard_labels(target, student)
    term = partial(_term, labels=labels, alpha=alpha, beta=beta, confidence_temperature=confidence_temperature)
    return reduce_rows(with_gradient(term, student, teacher, temperature))


def _term(
    student: Tensor,
    teacher: Tensor,
    temperature: float,
    labels: Tensor,
    alpha: float,
    beta: float,
    confidence_temperature: float,
) -> tuple[Tensor, Gradient]:
    confident = log_binary(divided(teacher, confidence_temperature), teacher.argmax(-1))
    log_label, others = apart(student, labels, confidence_temperature)
    confidence = kl_rows(confident, log_label)

    hidden = teacher >= teacher.gather(-1, labels.unsqueeze(-1))
    # where the label has the lowest score nothing is left to compare: no class is hidden then, and the row is cut
    nothing = hidden.all(-1, keepdim=True)
    hidden = hidden & ~nothing
    log_q, log_p = (softened(x.masked_fill(hidden, -torch.inf), temperature) for x in (student, teacher))
    p, ratio = log_p.exp(), log_p - log_q
    del log_p, hidden
    correlation = (p * ratio).sum(-1).masked_fill(nothing.squeeze(-1), 0.0)

    def gradient() -> Tensor:
        excess = alpha * confidence_temperature * (log_label.exp() - confident.exp())[..., :1]
        first = others.exp_().mul_(-excess).scatter_(-1, labels.unsqueeze(-1), excess)
        return first.add_(log_q.exp_().sub_(p).masked_fill_(nothing, 0.0).mul_(beta * temperature))

    return alpha * confidence_temperature**2 * confidence + beta * temperature**2 * correlation, gradient


class RLD(LogitLoss):
    r"""The teacher's confidence goes to the true class, and classes it ranks above the true one are left out.

    Paper: Sun et al., Knowledge Distillation with Refined Logits, ICCV 2025,
        https://arxiv.org/abs/2408.07703

    .. math:: \frac{1}{B} \sum_b \alpha A^2 \, \mathrm{KL} \big( [p_m, 1 - p_m] \,\|\, [q_y, 1 - q_y] \big)_A
        + \beta T^2 \, \mathrm{KL}\big( \mathrm{softmax}(z^t_M / T) \,\|\, \mathrm{softmax}(z^s_M / T) \big)

    with the teacher's largest probability :math:`p_m`, whatever its class, the student's probability :math:`q_y`
    of the label, both at temperature A, and the classes :math:`M = \{ c : z^t_c < z^t_y \}` that the teacher ranks
    below the label. On CIFAR-100 the authors take these defaults beside cross entropy with weight 1, and warm the
    term up over 20 of 240 epochs (callback ``WarmUp``); on ImageNet :math:`\beta = 0.5` and T = 1.

    Args:
        alpha: Factor of the confidence of the sample.
        beta: Factor of the correlation of the classes below the label.
        temperature: Divides the logits of both networks in the correlation.
        confidence_temperature: Divides the logits of both networks in the confidence.

    Shape:
        Logits ``(B, C)`` of both; target ``(B,)``, or ``(B, C)`` of which the likeliest class counts; output a
        scalar.

    Raises:
        InputError: If a temperature is not positive, a factor is negative, the shapes of the logits differ or the
            target does not fit them.

    Traps:
        - Confidence pairs two classes: the teacher's favourite and the student's label. Where the teacher is wrong
          the term is not 0 for a student that equals it.
        - A label that the teacher ranks last leaves no class to correlate: that sample counts 0, and the batch is
          still divided by its size.

    Code: ``zju-SWJ/RLD:mdistiller/distillers/RLD.py``, equal to the paper; its logarithm of :math:`1 - q_y` is -inf
        for a student that is certain, here it stays finite.

    Example:
        >>> outputs = Outputs(torch.tensor([[3.0, 1.0, 0.0]]))
        >>> RLD()(outputs, outputs, torch.tensor([0]))
        tensor(0.)
    """

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        confidence_temperature: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        require(alpha >= 0, "alpha", alpha, "0 or positive")
        require(beta >= 0, "beta", beta, "0 or positive")
        check_temperature(temperature)
        require(confidence_temperature > 0, "confidence_temperature", confidence_temperature, "positive")
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature
        self.confidence_temperature = confidence_temperature

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Confidence and correlation, mean over the batch."""
        return rld(
            student.logits,
            teacher.logits,
            target,
            self.alpha,
            self.beta,
            self.temperature,
            self.confidence_temperature,
        )
