"""Dynamic temperature: it falls along a cosine, and rises where the student lags behind the teacher."""

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import check_temperature, require
from lit_distill.losses.labels import hard_labels
from lit_distill.losses.modifiers.temperature import TemperatureModifier
from lit_distill.losses.precision import fp32


@fp32
def dynamic_temperature(
    temperature: Tensor,
    gap: Tensor,
    progress: float,
    initial: float = 4.0,
    lowest: float = 2.0,
    highest: float = 4.0,
    momentum: float = 0.9,
    curve: float = 1.0,
) -> Tensor:
    r"""The temperature after one more step; the formula is that of :class:`DTS`.

    Args:
        temperature: The temperature before, without axes.
        gap: Cross entropy of the teacher minus that of the student, without axes.
        progress: Fraction of training that is over, in [0, 1].
        initial: Temperature at the top of the cosine.
        lowest: The target is not lower.
        highest: The target is not higher.
        momentum: Share of the temperature before.
        curve: Half turns of the cosine over the whole training.

    Returns:
        A tensor without axes.

    Example:
        >>> dynamic_temperature(torch.tensor(4.0), gap=torch.tensor(0.0), progress=1.0)
        tensor(3.8000)
    """
    cosine = 0.5 * (1 + math.cos(curve * math.pi * progress))
    ratio = gap / (gap + 1)
    factor = torch.where(ratio > 2, 1.35, ratio.clamp(min=1))
    target = (initial * cosine * factor).clamp(lowest, highest)
    return momentum * temperature + (1 - momentum) * target


@fp32
def loss_gap(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    """Cross entropy of the teacher minus that of the student, mean over the samples of all ranks.

    Args:
        student: Logits of the student, ``(B, C)``.
        teacher: Logits of the teacher, ``(B, C)``.
        target: Class indices ``(B,)``, or class probabilities ``(B, C)`` of which the likeliest class counts.

    Returns:
        A tensor without axes, the same on all ranks.

    Raises:
        InputError: If the target does not fit the logits.

    Example:
        >>> certain = torch.tensor([[99.0, 0.0]])
        >>> loss_gap(torch.zeros(1, 2), certain, torch.tensor([0]))
        tensor(-0.6931)
    """
    labels = hard_labels(target, student)
    own, theirs = (F.cross_entropy(logits, labels, reduction="sum") for logits in (student, teacher))
    gap = theirs - own
    total = torch.stack([gap, torch.full_like(gap, len(student))])
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(total)
    return total[0] / total[1]


class DTS(TemperatureModifier):
    r"""The temperature falls along a cosine, and less where the student is far worse than the teacher.

    Paper: Islam et al., Dynamic Temperature Scheduler for Knowledge Distillation, arXiv 2025,
        https://arxiv.org/abs/2511.13767

    .. math:: T \leftarrow \mu T + (1 - \mu) \, \mathrm{clip}\Big( T_0 \, f(a) \, \frac{1 + \cos(\kappa \pi p)}{2},
        \; T_{\min}, T_{\max} \Big), \qquad a = \frac{g}{g + 1}

    at each training step, with the fraction p of training that is over and the gap g, cross entropy of the teacher
    minus that of the student in this batch. The factor f(a) is 1 up to a = 1, then a up to a = 2, and 1.35 beyond.

    The fraction p is the attribute ``progress``, which must be set before each step. The callback ``Schedule`` does
    that: ``path: losses.kd.progress, start: 0, end: 1``. The temperature is a buffer: checkpoints hold it, and it is
    the same on all ranks. In eval mode it stays as it is.

    Args:
        loss: The term whose temperature is set, alone or within other modifiers; its own has no effect.
        initial: Temperature :math:`T_0`, with which training begins.
        lowest: The temperature moves to no lower target.
        highest: The temperature moves to no higher target.
        momentum: Share :math:`\mu` of the temperature of the step before, in [0, 1).
        curve: Half turns :math:`\kappa` of the cosine over the whole training.

    Shape:
        Logits ``(B, C)`` of both; target ``(B,)``, or ``(B, C)`` of which the likeliest class counts; output that of
        the term within.

    Raises:
        InputError: If the term within has no temperature or another modifier sets it, an argument is out of range,
            the target does not fit, or ``progress`` is not set in training; besides, as the term within.

    Traps:
        - Only a gap below -1 counts: where the teacher's cross entropy is at least 1 lower than the student's.
          With the default :math:`T_0 = T_{\max}` even that changes nothing before the cosine has come down.
        - The factor is largest for gaps a little below -2, near 2; for gaps between -2 and -1 it is 1.35.
        - The authors' code counts epochs from 1, so its cosine ends each epoch where ``Schedule`` begins the next.

    Code: ``Sibgat-Ul/DATS_enhanced:mdistiller/engine/trainer.py``, the authors' earlier repository, equal to this;
        the paper's own was not to be had, and the formula may differ from it.

    Example:
        >>> from lit_distill.losses import KD
        >>> loss = DTS(KD(), weight=0.9)
        >>> student, teacher = Outputs(torch.zeros(1, 3)), Outputs(torch.tensor([[3.0, 1.0, 0.0]]))
        >>> loss.progress = 1.0
        >>> _ = loss(student, teacher, torch.tensor([0]))
        >>> loss.temperature
        tensor(3.8000)
    """

    temperature: Tensor

    def __init__(
        self,
        loss: LogitLoss,
        initial: float = 4.0,
        lowest: float = 2.0,
        highest: float = 4.0,
        momentum: float = 0.9,
        curve: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(loss, **kwargs)
        check_temperature(initial)
        require(0 < lowest <= highest, "lowest, highest", f"{lowest}, {highest}", "positive and in this order")
        require(0 <= momentum < 1, "momentum", momentum, "in [0, 1)")
        require(curve >= 0, "curve", curve, "0 or positive")
        self.initial = initial
        self.lowest = lowest
        self.highest = highest
        self.momentum = momentum
        self.curve = curve
        self.progress = math.nan  # a number, for schedules look for one; and none that could be mistaken for a plan
        self.register_buffer("temperature", torch.tensor(float(initial)))

    @torch.no_grad()
    def current(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """The temperature after this batch; in eval mode that of the last training step."""
        if self.training:
            if math.isnan(self.progress):
                raise InputError(
                    "progress of DTS must be a fraction of training set before each step (callback Schedule with path: "
                    f"losses.<name>.progress, start: 0, end: 1), got {self.progress}"
                )
            after = dynamic_temperature(
                self.temperature,
                loss_gap(student.logits, teacher.logits, target),
                self.progress,
                self.initial,
                self.lowest,
                self.highest,
                self.momentum,
                self.curve,
            )
            self.temperature.copy_(after)
        return self.temperature.clone()  # the graph of this step must not see what later steps write
