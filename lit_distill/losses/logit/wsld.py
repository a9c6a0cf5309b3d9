"""Weighted soft labels: samples count by how much the student has still to learn from the label."""

from typing import Any

import torch
from torch import Tensor

from lit_distill.core.outputs import Outputs
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import check_same_shape, check_temperature, require
from lit_distill.losses.divergences.rows import cross_entropy_rows, divided, reduce_rows
from lit_distill.losses.labels import hard_labels
from lit_distill.losses.precision import fp32

# Added to the teacher's cross entropy, as in the authors' code: a certain teacher's is 0.
SMALL = 1e-7


@fp32
def wsld(student: Tensor, teacher: Tensor, target: Tensor, alpha: float = 2.25, temperature: float = 4.0) -> Tensor:
    r"""Cross entropy of softened probabilities, weighted sample by sample.

    The formula is that of :class:`WSLD`.

    Args:
        student: Logits of the student, ``(B, C)``.
        teacher: Logits of the teacher, ``(B, C)``.
        target: Class indices ``(B,)``, or class probabilities ``(B, C)`` of which the likeliest class counts.
        alpha: Factor of the whole.
        temperature: Divides both logits in the cross entropy, not in the weights.

    Returns:
        A scalar.

    Example:
        >>> logits = torch.tensor([[30.0, 0.0]])
        >>> wsld(logits, -logits, torch.tensor([0])).abs() < 1e-6  # the label is learnt already
        tensor(True)
    """
    check_same_shape(student, teacher, "logits")
    weight = _weight(student.detach(), teacher, hard_labels(target, student))
    soft = cross_entropy_rows(student, divided(teacher, temperature).softmax(-1), temperature)
    return alpha * temperature**2 * reduce_rows(weight * soft)


def _weight(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Between 0, for a sample whose label the student knows, and 1, for one that the teacher knows much better."""
    labels = labels.unsqueeze(-1)
    s, t = (-x.log_softmax(-1).gather(-1, labels).squeeze(-1) for x in (student, teacher))
    return -torch.expm1(-s / (t + SMALL))


class WSLD(LogitLoss):
    r"""Soft labels count less for samples that the student knows as well as the teacher does.

    Paper: Zhou et al., Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance Tradeoff Perspective,
        ICLR 2021, https://arxiv.org/abs/2102.00650

    .. math:: -\frac{\alpha T^2}{B} \sum_b w_b \sum_c p_{bc} \log q_{bc}, \quad
        w_b = 1 - \exp\Big( -\frac{\mathrm{CE}(z^s_b, y_b)}{\mathrm{CE}(z^t_b, y_b)} \Big)

    with the probabilities of teacher p and student q softened by T, and weights w of cross entropies with the label
    without temperature, through which no gradient flows. On samples that the student knows soft labels add more bias
    than they take variance away. Beside cross entropy with weight 1 the authors take T = 4 and :math:`\alpha = 2.25` on
    CIFAR-100, T = 2 and :math:`\alpha = 2.5` on ImageNet.

    Args:
        alpha: Factor of the whole, on top of ``weight``.
        temperature: Divides the logits of both networks in the soft labels, not in the weights.

    Shape:
        Logits ``(B, C)`` of both; target ``(B,)``, or ``(B, C)`` of which the likeliest class counts; output a
        scalar.

    Raises:
        InputError: If the temperature is not positive, ``alpha`` is negative, the shapes of the logits differ or the
            target does not fit them.

    Traps:
        - A cross entropy, not a divergence: the value is not 0 for a student that equals its teacher, though its
          gradient is.
        - A sample that the student knows and the teacher does not has a weight near 0; where the teacher is certain of
          the label the weight is near 1.

    Code: ``bellymonster/Weighted-Soft-Label-Distillation:knowledge_distiller.py``, equal to the paper.

    Example:
        >>> student, teacher = Outputs(torch.tensor([[30.0, 0.0]])), Outputs(torch.tensor([[0.0, 30.0]]))
        >>> WSLD()(student, teacher, torch.tensor([0])).abs() < 1e-6
        tensor(True)
    """

    def __init__(self, alpha: float = 2.25, temperature: float = 4.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require(alpha >= 0, "alpha", alpha, "0 or positive")
        check_temperature(temperature)
        self.alpha = alpha
        self.temperature = temperature

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Weighted cross entropy, mean over the batch."""
        return wsld(student.logits, teacher.logits, target, self.alpha, self.temperature)
