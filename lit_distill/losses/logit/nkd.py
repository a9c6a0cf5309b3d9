"""Normalised knowledge distillation: cross entropies of the label and of the other classes."""

from typing import Any

from torch import Tensor

from lit_distill.core.outputs import Outputs
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import check_same_shape, check_temperature, require
from lit_distill.losses.divergences.rows import log_probs, reduce_rows
from lit_distill.losses.labels import hard_labels, ruled_out
from lit_distill.losses.precision import fp32


@fp32
def nkd_rows(student: Tensor, teacher: Tensor, target: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """The two parts of :func:`nkd`, row by row.

    Args:
        student: Logits of the student, ``(..., C)``.
        teacher: Logits of the teacher, ``(..., C)``.
        target: Class indices ``(...)``, or class probabilities ``(..., C)`` of which the likeliest class counts.
        temperature: Divides both logits in the part of the other classes.

    Returns:
        Cross entropies of the label and of the other classes, each ``(...)``; the second times the square of the
        temperature.
    """
    check_same_shape(student, teacher, "logits")
    labels = hard_labels(target, student)
    chosen = labels.unsqueeze(-1)
    # only the label's log-probability is needed: no softmax over all classes is kept for it
    log_q, log_p = ((x.gather(-1, chosen) - x.logsumexp(-1, keepdim=True)).squeeze(-1) for x in (student, teacher))
    log_rest_q, log_rest_p = log_probs(ruled_out(student, labels), ruled_out(teacher, labels), temperature)
    return -log_p.exp() * log_q, -(temperature**2) * (log_rest_p.exp() * log_rest_q).sum(-1)


def nkd(student: Tensor, teacher: Tensor, target: Tensor, gamma: float = 1.5, temperature: float = 1.0) -> Tensor:
    r"""Cross entropy of the label, weighed by the teacher's confidence, and that of the other classes.

    The formula is that of :class:`NKD`.

    Args:
        student: Logits of the student, ``(B, C)``.
        teacher: Logits of the teacher, ``(B, C)``.
        target: Class indices ``(B,)``, or class probabilities ``(B, C)`` of which the likeliest class counts.
        gamma: Factor of the other classes.
        temperature: Divides both logits in the part of the other classes.

    Returns:
        A scalar.

    Example:
        >>> import torch
        >>> nkd(torch.zeros(1, 4), torch.tensor([[50.0, 0.0, 0.0, 0.0]]), torch.tensor([0]), gamma=0.0)
        tensor(1.3863)
    """
    label, rest = nkd_rows(student, teacher, target, temperature)
    return reduce_rows(label + gamma * rest)


class NKD(LogitLoss):
    r"""The other classes are compared after each network has normalised them among themselves.

    Paper: Yang et al., From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with
        Normalized Loss and Customized Soft Labels, ICCV 2023, https://arxiv.org/abs/2303.13005

    .. math:: -\frac{1}{B} \sum_b p_y \log q_y
        + \gamma T^2 \sum_{c \neq y} \hat p_c \log \hat q_c

    with teacher p and student q without temperature, the label y, and :math:`\hat p, \hat q` the softmax over the
    classes other than y, softened by T. The authors add it with weight 1 to cross entropy with weight 1.

    Args:
        gamma: Factor of the other classes.
        temperature: Divides the logits of both networks, for the other classes alone.

    Shape:
        Logits ``(B, C)`` of both; target ``(B,)``, or ``(B, C)`` of which the likeliest class counts; output a
        scalar.

    Raises:
        InputError: If the temperature is not positive, ``gamma`` is negative, the shapes of the logits differ or the
            target does not fit them.

    Traps:
        - Cross entropies, not divergences: the value is not 0 for a student that equals its teacher, and the first
          one then still raises :math:`q_y`. The second one, with the entropy of :math:`\hat p` added, is the one of
          ``DKD``.
        - fasterai turns the first one into a divergence as well.

    Code: ``yzd-v/cls_KD:mmcls/models/dis_losses/nkd.py``, equal to the paper.

    Example:
        >>> import torch
        >>> student, teacher = Outputs(torch.zeros(1, 4)), Outputs(torch.zeros(1, 4))
        >>> NKD(gamma=0.0)(student, teacher, torch.tensor([0]))
        tensor(0.3466)
    """

    def __init__(self, gamma: float = 1.5, temperature: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require(gamma >= 0, "gamma", gamma, "0 or positive")
        check_temperature(temperature)
        self.gamma = gamma
        self.temperature = temperature

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Both cross entropies with their factors, mean over the batch."""
        return nkd(student.logits, teacher.logits, target, self.gamma, self.temperature)
