"""Knowledge distillation with softened probabilities."""

from typing import Any

from torch import Tensor

from lit_distill.core.outputs import Outputs
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import check_temperature
from lit_distill.losses.divergences.kl import forward_kl
from lit_distill.losses.divergences.rows import reduce_rows


def kd(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    r"""Forward KL of softened probabilities, times the square of the temperature.

    .. math:: \frac{T^2}{B} \sum_b \mathrm{KL}\big( \mathrm{softmax}(z^t_b / T) \,\|\,
        \mathrm{softmax}(z^s_b / T) \big)

    Args:
        student: Logits of the student, ``(B, C)``; more dimensions than one before the classes count as
            batch.
        teacher: Logits of the teacher, ``(B, C)``.
        temperature: Divides both logits.

    Returns:
        A scalar.

    Example:
        >>> import torch
        >>> kd(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), temperature=1.0)
        tensor(0.4621)
    """
    return temperature**2 * reduce_rows(forward_kl(student, teacher, temperature=temperature))


class KD(LogitLoss):
    r"""Forward KL between softened probabilities of teacher and student.

    Paper: Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, NIPS 2014 workshop,
        https://arxiv.org/abs/1503.02531

    .. math:: \frac{T^2}{B} \sum_b \mathrm{KL}\big( \mathrm{softmax}(z^t_b / T) \,\|\,
        \mathrm{softmax}(z^s_b / T) \big)

    The factor :math:`T^2` keeps the gradient's size about constant when the temperature changes. The
    benchmark of CRD on CIFAR-100 takes T = 4 with weight 0.9 beside cross entropy with weight 0.1.

    Args:
        temperature: Divides the logits of both networks before the softmax. A higher one looks harder at the
            classes the teacher finds unlikely.

    Shape:
        Logits ``(B, C)`` of both; output a scalar.

    Raises:
        InputError: If the temperature is not positive or the shapes of the logits differ.

    Traps:
        - Sum over classes, mean over samples. The default reduction of ``kl_div`` also divides by the number
          of classes (``haitongli/knowledge-distillation-pytorch``, ModelOpt's ``LogitsDistillationLoss``).
        - torchdistill's ``KDLoss`` drops the factor :math:`T^2` when its ``alpha`` is 0.
        - Under mixup the teacher must see the mixed image.

    Code: ``HobbitLong/RepDistiller:distiller_zoo/KD.py``, equal to the paper.

    Example:
        >>> import torch
        >>> student, teacher = Outputs(torch.zeros(2, 4)), Outputs(torch.zeros(2, 4))
        >>> KD(temperature=4.0)(student, teacher, torch.tensor([0, 3]))
        tensor(0.)
    """

    def __init__(self, temperature: float = 4.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_temperature(temperature)
        self.temperature = temperature

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Mean divergence of the batch, times the square of the temperature."""
        return kd(student.logits, teacher.logits, self.temperature)
