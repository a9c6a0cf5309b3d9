"""Dynamic temperature knowledge distillation: one temperature for each sample and network."""

from functools import partial
from typing import Any

from torch import Tensor

from lit_distill.core.outputs import Outputs
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import check_same_shape, check_temperature, require
from lit_distill.losses.divergences.kl import kl_term
from lit_distill.losses.divergences.rows import reduce_rows, softened
from lit_distill.losses.known_gradient import Gradient, with_gradient
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
    return reduce_rows(with_gradient(partial(_term, alpha=alpha, beta=beta), student, teacher, temperature))


def _term(student: Tensor, teacher: Tensor, temperature: float, alpha: float, beta: float) -> tuple[Tensor, Gradient]:
    fixed, of_fixed = kl_term(student, teacher, temperature)
    (a, favourite), (b, _) = (x.max(-1, keepdim=True) for x in (student, teacher))
    is_lowest, a, b = a <= LOWEST, a.clamp(min=LOWEST), b.clamp(min=LOWEST)
    warm_s, warm_t = (2 * temperature * x / (a + b) for x in (a, b))
    log_q, log_p = softened(student / warm_s), softened(teacher / warm_t)
    p, ratio = log_p.exp(), log_p - log_q
    del log_p
    rows = (p * ratio).sum(-1, keepdim=True)

    def gradient() -> Tensor:
        # the student's largest logit moves both temperatures, by as much up as down
        step = 2 * temperature * b / (a + b).square()
        of_warm_t = warm_s * rows - warm_s / warm_t * (p * ratio.sub_(rows)).mul_(teacher).sum(-1, keepdim=True)
        gap = log_q.exp_().sub_(p)
        of_warm_s = warm_t * rows - warm_t / warm_s * (gap * student).sum(-1, keepdim=True)
        of_largest = (alpha * step * (of_warm_s - of_warm_t)).masked_fill(is_lowest, 0.0)
        direct = gap.mul_(alpha * warm_t).scatter_add_(-1, favourite, of_largest)
        return direct.add_(of_fixed().mul_(beta * temperature))

    return alpha * (warm_s * warm_t * rows).squeeze(-1) + beta * temperature**2 * fixed, gradient


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
