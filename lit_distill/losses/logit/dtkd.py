"""Dynamic temperature knowledge distillation: one temperature for each sample and network."""

from typing import Any

from torch import Tensor

from lit_distill.core.outputs import Outputs
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import check_same_shape, check_temperature, require
from lit_distill.losses.divergences.kl import forward_kl
from lit_distill.losses.divergences.rows import reduce_rows
from lit_distill.losses.logit.kd import kd
from lit_distill.losses.precision import fp32

# Largest logits below this count as this: at 0 a temperature vanishes, and below it the order of the classes is turned.
LOWEST = 1e-3


@fp32
def dtkd(student: Tensor, teacher: Tensor, alpha: float = 3.0, beta: float = 1.0, temperature: float = 4.0) -> Tensor:
    r"""Divergence at temperatures that depend on the sample, and that at a fixed one.

    The formula is that of :class:`DTKD`.

    Args:
        student: Logits of the student, ``(B, C)``; more dimensions than one before the classes count as batch.
        teacher: Logits of the teacher, ``(B, C)``.
        alpha: Factor of the divergence at the sample's temperatures.
        beta: Factor of the divergence at the fixed temperature.
        temperature: The fixed temperature, and the mean of the two of each sample.

    Returns:
        A scalar.

    Example:
        >>> import torch
        >>> dtkd(torch.tensor([[2.0, 1.0]]), torch.tensor([[4.0, 2.0]]), beta=0.0)  # equal once the maxima are
        tensor(0.)
    """
    check_same_shape(student, teacher, "logits")
    check_temperature(temperature)
    a, b = (x.amax(-1, keepdim=True).clamp(min=LOWEST) for x in (student, teacher))
    warm_s, warm_t = (2 * temperature * x / (a + b) for x in (a, b))
    dynamic = (warm_s * warm_t).squeeze(-1) * forward_kl(student / warm_s, teacher / warm_t)
    return alpha * reduce_rows(dynamic) + beta * kd(student, teacher, temperature)


class DTKD(LogitLoss):
    r"""The network with the sharper answer is softened more, sample by sample.

    Paper: Wei and Bai, Dynamic Temperature Knowledge Distillation, arXiv 2024, https://arxiv.org/abs/2404.12711

    .. math:: \frac{1}{B} \sum_b \alpha T_s T_t \, \mathrm{KL}\big( \mathrm{softmax}(z^t_b / T_t) \,\|\,
        \mathrm{softmax}(z^s_b / T_s) \big) + \beta T^2 \, \mathrm{KL}\big( \mathrm{softmax}(z^t_b / T) \,\|\,
        \mathrm{softmax}(z^s_b / T) \big)

    .. math:: T_s = \frac{2 a}{a + b} T, \quad T_t = \frac{2 b}{a + b} T, \quad
        a = \max_c z^s_{bc}, \quad b = \max_c z^t_{bc}

    The temperatures make the largest logits equal; the gradient flows through them too. On CIFAR-100 the authors take
    these defaults (:math:`\beta = 2` for ResNet-50 to MobileNetV2) beside cross entropy with weight 1, and warm the
    term up over 20 of 240 epochs (callback ``WarmUp``).

    Args:
        alpha: Factor of the divergence at the sample's temperatures.
        beta: Factor of the divergence at the fixed temperature.
        temperature: The fixed temperature T, and the mean of the two of each sample.

    Shape:
        Logits ``(B, C)`` of both; output a scalar.

    Raises:
        InputError: If the temperature is not positive, a factor is negative or the shapes of the logits differ.

    Traps:
        - Logits count with their mean over classes, which no softmax sees: for a largest logit of 0 or less the
          released temperatures are 0 or negative. Here it counts as 1e-3.
        - The repository's README withdraws the derivation of the temperatures (equations 4 and 5): they do not
          minimise the difference of sharpness, yet they are what all results were made with.

    Code: ``JinYu1998/DTKD:mdistiller/distillers/DTKD.py``, equal to this where both largest logits are positive.

    Example:
        >>> import torch
        >>> student, teacher = Outputs(torch.tensor([[2.0, 1.0]])), Outputs(torch.tensor([[4.0, 2.0]]))
        >>> DTKD(beta=0.0)(student, teacher, torch.tensor([0]))
        tensor(0.)
    """

    def __init__(self, alpha: float = 3.0, beta: float = 1.0, temperature: float = 4.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require(alpha >= 0, "alpha", alpha, "0 or positive")
        require(beta >= 0, "beta", beta, "0 or positive")
        check_temperature(temperature)
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Both divergences with their factors, mean over the batch."""
        return dtkd(student.logits, teacher.logits, self.alpha, self.beta, self.temperature)
