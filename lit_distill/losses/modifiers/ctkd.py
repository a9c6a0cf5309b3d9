"""Curriculum temperature: a learnt temperature that makes the task harder as training goes on."""

from typing import Any

import torch
from torch import Tensor, nn

from lit_distill.core.outputs import Outputs
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import check_temperature, require
from lit_distill.losses.modifiers.temperature import TemperatureModifier
from lit_distill.losses.precision import fp32


@fp32
def adversarial_temperature(
    theta: Tensor, lowest: float = 1.0, span: float = 20.0, strength: float | Tensor = 1.0
) -> Tensor:
    r"""A temperature whose parameter climbs the loss that everything else descends.

    .. math:: T = T_0 + s \, \sigma(\theta), \qquad
        \frac{\partial L}{\partial \theta} := -\lambda \, \frac{\partial L}{\partial T} \, s \, \sigma'(\theta)

    Args:
        theta: The parameter, ``(1,)``.
        lowest: Temperature :math:`T_0` for a parameter of minus infinity.
        span: By how much the temperature can exceed it.
        strength: Factor :math:`\lambda` of the reversed gradient; the value does not depend on it.

    Returns:
        The temperature, without axes.

    Example:
        >>> adversarial_temperature(torch.zeros(1))
        tensor(11.)
    """
    fixed = theta.detach()
    # value of theta, to the bit, with -strength times its gradient
    reversed_ = fixed - strength * (theta - fixed)
    return (lowest + span * reversed_.sigmoid()).squeeze()


class CTKD(TemperatureModifier):
    r"""The temperature is learnt against the student: it climbs the term that the student descends.

    Paper: Li et al., Curriculum Temperature for Knowledge Distillation, AAAI 2023,
        https://arxiv.org/abs/2211.16231

    .. math:: T = T_0 + s \, \sigma(\theta), \qquad
        \theta \leftarrow \theta + \eta \lambda \, \frac{\partial L}{\partial \theta}

    with one learnt number :math:`\theta`, which starts at 1 (a temperature of 15.6). The curriculum is
    :math:`\lambda`, which the authors let grow from 0 to 1 on half a cosine over 10 of 240 epochs. The callback
    ``Schedule`` does that: ``path: losses.kd.strength, start: 0, end: 1, shape: cosine, until: 0.0417``. The authors
    weigh ``KD`` with 0.9 beside cross entropy with 0.1.

    Args:
        loss: The term whose temperature is learnt, alone or within other modifiers; its own has no effect.
        lowest: The temperature that the learnt one stays above.
        span: By how much it can exceed ``lowest``; with 0 it is constant.
        strength: Factor of the reversed gradient; ``Schedule`` makes the curriculum from it.

    Shape:
        Logits ``(B, C)`` of both; output that of the term within.

    Raises:
        InputError: If the term within has no temperature or another modifier sets it, ``lowest`` is not positive,
            or ``span`` or ``strength`` is negative; besides, as the term within.

    Traps:
        - The authors' options are called ``t_start`` 1 and ``t_end`` 20, but the temperature reaches 21.
        - Their reversal is the sign of :math:`\lambda`, which goes from 0 to -1. They change it after each epoch,
          ``Schedule`` at each step.
        - The gradient flows through the factor :math:`T^2` of the term too.
        - Adam divides the size of the gradient out again: with it, ``strength`` sets little but the sign.
        - The parameter is in the same optimizer as the student, with its learning rate and weight decay.

    Code: ``zhengli97/CTKD:models/temp_global.py`` and ``train_student.py``, equal to the paper's global form. Its
        form with one temperature a sample is not here.

    Example:
        >>> from lit_distill.losses import KD
        >>> loss = CTKD(KD(), weight=0.9)
        >>> student, teacher = Outputs(torch.zeros(1, 3)), Outputs(torch.tensor([[3.0, 1.0, 0.0]]))
        >>> loss(student, teacher, torch.tensor([0])).backward()
        >>> loss.theta.grad.shape
        torch.Size([1])
    """

    def __init__(
        self, loss: LogitLoss, lowest: float = 1.0, span: float = 20.0, strength: float = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(loss, **kwargs)
        check_temperature(lowest)
        require(span >= 0, "span", span, "0 or positive")
        require(strength >= 0, "strength", strength, "0 or positive")
        self.lowest = lowest
        self.span = span
        self.strength = strength
        self.theta = nn.Parameter(torch.ones(1))

    def current(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """The learnt temperature."""
        return adversarial_temperature(self.theta, self.lowest, self.span, self.strength)
