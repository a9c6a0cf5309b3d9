"""Distillation without labels: a symmetric divergence of the softmax outputs, and nothing else."""

from typing import Any, Literal

from torch import Tensor

from lit_distill.core.outputs import Outputs
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import require
from lit_distill.losses.divergences.jsd import jsd
from lit_distill.losses.divergences.kl import mixed_kl
from lit_distill.losses.divergences.rows import reduce_rows


def ssld(student: Tensor, teacher: Tensor, mode: Literal["paper", "code"] = "code") -> Tensor:
    r"""Symmetric divergence of the probabilities, mean over the batch.

    The formulas of both modes are those of :class:`SSLD`.

    Args:
        student: Logits of the student, ``(B, C)``; more dimensions than one before the classes count as batch.
        teacher: Logits of the teacher, ``(B, C)``.
        mode: The formula of the released code, or the Jensen-Shannon divergence.

    Returns:
        A scalar.

    Example:
        >>> import torch
        >>> certain = torch.tensor([[99.0, 0.0]])
        >>> ssld(-certain, certain), ssld(-certain, certain, mode="paper")
        (tensor(99.), tensor(0.6931))
    """
    _check(mode)
    return reduce_rows(jsd(student, teacher) if mode == "paper" else mixed_kl(student, teacher))


def _check(mode: str) -> None:
    require(mode in ("paper", "code"), "mode", repr(mode), "'paper' or 'code'")


class SSLD(LogitLoss):
    r"""The student learns a strong teacher's answers without any label, so that unlabelled images serve as well.

    Paper: Cui et al., Beyond Self-Supervision: A Simple Yet Effective Network Distillation Alternative to Improve
        Backbones, arXiv 2021, https://arxiv.org/abs/2103.05959

    With teacher p and student q, mode ``code``, half of the symmetric Kullback-Leibler divergence:

    .. math:: \frac{1}{2 B} \sum_b \mathrm{KL}(p_b \,\|\, q_b) + \mathrm{KL}(q_b \,\|\, p_b)

    Mode ``paper``, the Jensen-Shannon divergence:

    .. math:: \frac{1}{2 B} \sum_b \mathrm{KL}(p_b \,\|\, m_b) + \mathrm{KL}(q_b \,\|\, m_b), \quad
        m = \frac{p + q}{2}

    The authors train with this term alone, with weight 1: no cross entropy, no temperature. They add four million
    unlabelled images to ImageNet, train for 360 epochs, and fine-tune on the labels after.

    Args:
        mode: The formula of the released code, which made the published students, or the divergence that paper and
            documentation name.

    Shape:
        Logits ``(B, C)`` of both; the target is not asked; output a scalar.

    Raises:
        InputError: If ``mode`` is unknown or the shapes of the logits differ.

    Traps:
        - The code's loss has the name of the Jensen-Shannon divergence but not its bound: a student that is certain
          of a class that the teacher rules out pays without limit, where mode ``paper`` stays below log 2.
        - In mode ``paper`` a student that is certain and wrong hardly learns: its gradient vanishes with the
          probability that it gives to the teacher's class.
        - Without a temperature the classes that a confident teacher finds unlikely count for little.

    Code: ``PaddlePaddle/PaddleClas:ppcls/loss/dmlloss.py`` (up to release 2.1 JSDivLoss in ``ppcls/modeling/loss.py``),
        equal to mode ``code`` but for the 1e-12 or 1e-10 that it adds to probabilities.

    Example:
        >>> import torch
        >>> student, teacher = Outputs(torch.zeros(2, 4)), Outputs(torch.zeros(2, 4))
        >>> SSLD()(student, teacher, torch.tensor([0, 3]))
        tensor(0.)
    """

    def __init__(self, mode: Literal["paper", "code"] = "code", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _check(mode)
        self.mode: Literal["paper", "code"] = mode

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Mean divergence of the batch."""
        return ssld(student.logits, teacher.logits, self.mode)
