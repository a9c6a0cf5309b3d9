"""LumiNet: logits in units of how each class varies over the batch."""

from typing import Any

from torch import Tensor

from lit_distill.core.outputs import Outputs
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import check_same_shape, check_temperature, require
from lit_distill.losses.divergences.kl import kl_term
from lit_distill.losses.gather import gathered
from lit_distill.losses.known_gradient import Gradient, with_gradient
from lit_distill.losses.precision import fp32

# Added to the variance, as in the authors' code: a class may not vary over a batch.
SMALL = 1e-5


@fp32
def luminet(student: Tensor, teacher: Tensor, alpha: float = 33.0, temperature: float = 4.0) -> Tensor:
    r"""Divergence of softened probabilities after each class is standardised over the batch.

    The formula is that of :class:`LumiNet`.

    Args:
        student: Logits of the student, ``(B, C)``.
        teacher: Logits of the teacher, ``(B, C)``.
        alpha: Its square is the factor of the whole.
        temperature: Divides the standardised logits of both.

    Returns:
        A scalar.

    Example:
        >>> import torch
        >>> luminet(torch.eye(4), 1 + torch.eye(4))
        tensor(0.)
    """
    check_same_shape(student, teacher, "logits")
    require(student.dim() == 2, "student logits", tuple(student.shape), "of shape (B, C)")
    return alpha**2 * with_gradient(_term, student, teacher, temperature)


def _term(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Gradient]:
    seen, deviation = _perception(student)
    rows, of_seen = kl_term(seen, _perception(teacher)[0], temperature)

    def gradient() -> Tensor:
        # mean and deviation move with the logits: of the gradient for what is seen, the part along both is cut
        g = of_seen().div_(len(seen) * temperature)
        along = (g * seen).mean(0)
        return g.sub_(g.mean(0)).sub_(seen * along).div_(deviation)

    return rows.mean(), gradient


def _perception(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Each class with mean 0 and variance 1 over the batch, ``(B, C)``, and its deviation, ``(C,)``."""
    centred = logits - logits.mean(0)
    deviation = (centred.square().mean(0) + SMALL).sqrt()
    return centred / deviation, deviation


class LumiNet(LogitLoss):
    r"""Classes are compared by how unusual their logits are for the batch.

    Paper: Hossain et al., LumiNet: Perception-Driven Knowledge Distillation via Statistical Logit Calibration,
        arXiv 2023, https://arxiv.org/abs/2310.03669

    .. math:: \frac{\alpha^2}{B} \sum_b \mathrm{KL}\big( \mathrm{softmax}(h^t_b / T) \,\|\,
        \mathrm{softmax}(h^s_b / T) \big), \quad
        h_{bc} = \frac{z_{bc} - \mu_c}{\sqrt{\sigma^2_c + 10^{-5}}}

    with mean :math:`\mu_c` and variance :math:`\sigma^2_c` of the logits of class c over the batch, through which the
    student's gradient flows too. On CIFAR-100 the authors take T = 4 and :math:`\alpha = 33` (ResNet-32x4 to
    ResNet-8x4) or T = 8 and :math:`\alpha = 70` (to MobileNetV2) beside cross entropy with weight 2, and warm the term
    up over 20 of 240 epochs (callback ``WarmUp``).

    Args:
        alpha: Its square is the factor of the whole, in place of :math:`T^2` and on top of ``weight``.
        temperature: Divides the standardised logits of both networks before the softmax.
        gather: Take mean and variance over the samples of all ranks instead of this rank's alone (with gradients);
            without it the value depends on how many devices share the batch.

    Shape:
        Logits ``(B, C)`` of both; output a scalar.

    Raises:
        InputError: If the temperature is not positive, ``alpha`` is negative or the logits are not ``(B, C)`` of one
            shape.

    Traps:
        - Statistics are those of a class over the batch, not of a sample over the classes as in logit standardisation,
          and the variance is divided by B.
        - In a small batch, or one with few of the classes, they are poor: the value of a sample depends on its
          companions, and a single sample has value 0.

    Code: ``ismail31416/LumiNet:mdistiller/distillers/Luminet.py``, equal to this.

    Example:
        >>> import torch
        >>> student, teacher = Outputs(torch.eye(4)), Outputs(1 + torch.eye(4))
        >>> LumiNet()(student, teacher, torch.arange(4))
        tensor(0.)
    """

    def __init__(self, alpha: float = 33.0, temperature: float = 4.0, gather: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require(alpha >= 0, "alpha", alpha, "0 or positive")
        check_temperature(temperature)
        self.alpha = alpha
        self.temperature = temperature
        self.gather = gather

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Mean divergence of the batch, times the square of ``alpha``."""
        s, t = student.logits, teacher.logits
        if self.gather:
            s, t = gathered(s), gathered(t)
        return luminet(s, t, self.alpha, self.temperature)
