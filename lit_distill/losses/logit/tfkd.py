"""Teacher-free knowledge distillation: from a teacher made by hand, or from the student's own earlier training."""

from typing import Any, Literal

import torch
from torch import Tensor

from lit_distill.core.outputs import Outputs
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import check_temperature, require
from lit_distill.losses.divergences.rows import reduce_rows
from lit_distill.losses.labels import hard_labels
from lit_distill.losses.logit.kd import kd
from lit_distill.losses.precision import fp32


@fp32
def tfkd_reg(
    student: Tensor,
    target: Tensor,
    correct: float = 0.99,
    temperature: float = 20.0,
    mode: Literal["paper", "code"] = "code",
) -> Tensor:
    r"""Divergence of the student from a virtual teacher that is right with the same confidence in every sample.

    The formulas of both modes are those of :class:`TfKDReg`.

    Args:
        student: Logits of the student, ``(B, C)``; more dimensions than one before the classes count as batch.
        target: Class indices ``(B,)``, or class probabilities ``(B, C)`` of which the likeliest class counts.
        correct: Probability that the virtual teacher gives to the label before it is softened.
        temperature: Divides the virtual teacher's probabilities, as logits, and in mode ``paper`` the student's logits.
        mode: The formula of the released code, or that of the paper.

    Returns:
        A scalar.

    Example:
        >>> import torch
        >>> tfkd_reg(torch.zeros(1, 4), torch.tensor([0]), correct=0.25)
        tensor(0.)
    """
    _check(correct, temperature, mode)
    classes = student.shape[-1]
    labels = hard_labels(target, student).unsqueeze(-1)
    # softened, the virtual teacher has two probabilities, that of the label and that of every other class: the
    # divergence is a smoothed cross entropy minus a constant, and needs no table of its probabilities
    lead = student.new_tensor(correct - (1 - correct) / (classes - 1))
    advantage = lead / temperature
    log_label = -torch.log1p((classes - 1) * (-advantage).exp())
    log_other = log_label - advantage
    label, other = log_label.exp(), log_other.exp()
    entropy = -label * log_label - (classes - 1) * other * log_other
    log_q = (student / temperature if mode == "paper" else student).log_softmax(-1)
    chosen = log_q.gather(-1, labels).squeeze(-1)
    rows = -(label - other) * chosen - other * log_q.sum(-1) - entropy
    return reduce_rows(rows) if mode == "paper" else reduce_rows(rows) / classes


def tfkd_self(
    student: Tensor, teacher: Tensor, temperature: float = 20.0, mode: Literal["paper", "code"] = "code"
) -> Tensor:
    r"""Distillation from the student's own earlier training.

    The formulas of both modes are those of :class:`TfKDSelf`.

    Args:
        student: Logits of the student, ``(B, C)``; more dimensions than one before the classes count as batch.
        teacher: Logits of its trained copy, ``(B, C)``.
        temperature: Divides both logits.
        mode: The formula of the released code, or that of the paper.

    Returns:
        A scalar.

    Example:
        >>> import torch
        >>> tfkd_self(torch.zeros(1, 4), torch.zeros(1, 4))
        tensor(0.)
    """
    _check(1.0, temperature, mode)
    value = kd(student, teacher, temperature)
    return value if mode == "paper" else value / student.shape[-1]


def _check(correct: float, temperature: float, mode: str) -> None:
    require(0 < correct <= 1, "correct", correct, "in (0, 1]")
    check_temperature(temperature)
    require(mode in ("paper", "code"), "mode", repr(mode), "'paper' or 'code'")


class TfKDReg(LogitLoss):
    r"""A virtual teacher that is always right replaces the network: Tf-KD by regularisation.

    Paper: Yuan et al., Revisiting Knowledge Distillation via Label Smoothing Regularization, CVPR 2020,
        https://arxiv.org/abs/1909.11723

    The virtual teacher gives probability a to the label and :math:`(1 - a) / (C - 1)` to every other class; u are these
    probabilities. Mode ``code``:

    .. math:: \frac{1}{B C} \sum_b \mathrm{KL}\big( \mathrm{softmax}(u_b / T) \,\|\, \mathrm{softmax}(z^s_b) \big)

    Mode ``paper``:

    .. math:: \frac{1}{B} \sum_b \mathrm{KL}\big( \mathrm{softmax}(u_b / T) \,\|\, \mathrm{softmax}(z^s_b / T) \big)

    The teacher of the run is not asked: this is for a network without a stronger one. The authors add :math:`\alpha m`
    times this (mode ``code``) to cross entropy with weight :math:`1 - \alpha`, on CIFAR-100 :math:`\alpha = 0.1`,
    T = 20 and m = 100 for ResNet-18, :math:`\alpha = 0.95`, T = 40 and m = 1 for MobileNetV2.

    Args:
        correct: Probability a that the virtual teacher gives to the label before it is softened, in (0, 1].
        temperature: Divides the probabilities u, and in mode ``paper`` the student's logits.
        mode: The formula of the released code, to which the published weights belong, or that of the paper.

    Shape:
        Student logits ``(B, C)``; target ``(B,)``, or ``(B, C)`` of which the likeliest class counts; output a scalar.

    Raises:
        InputError: If the temperature is not positive, ``correct`` lies outside (0, 1], the mode is another one or the
            target does not fit the logits.

    Traps:
        - The virtual teacher's probabilities, divided by T, go through a softmax: at T = 20 the label gets 5% more than
          any other class. Mode ``code`` is label smoothing that smooths nearly all of the label away.
        - Mode ``code`` divides by the number of classes too, which the multiplier m makes up for.

    Code: ``yuanli2333/Teacher-free-Knowledge-Distillation:my_loss_function.py`` (loss_kd_regularization), equal to mode
        ``code``, without its cross entropy.

    Example:
        >>> import torch
        >>> student = Outputs(torch.tensor([[0.05, 0.0, 0.0]]))
        >>> bool(TfKDReg()(student, student, torch.tensor([0])) < TfKDReg()(student, student, torch.tensor([1])))
        True
    """

    needs_teacher = False

    def __init__(
        self, correct: float = 0.99, temperature: float = 20.0, mode: Literal["paper", "code"] = "code", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        _check(correct, temperature, mode)
        self.correct = correct
        self.temperature = temperature
        self.mode: Literal["paper", "code"] = mode

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Mean divergence from the virtual teacher."""
        return tfkd_reg(student.logits, target, self.correct, self.temperature, self.mode)


class TfKDSelf(LogitLoss):
    r"""The network is taught by a trained copy of itself: Tf-KD by self-training.

    Paper: Yuan et al., Revisiting Knowledge Distillation via Label Smoothing Regularization, CVPR 2020,
        https://arxiv.org/abs/1909.11723

    .. math:: \frac{T^2}{B N} \sum_b \mathrm{KL}\big( \mathrm{softmax}(z^t_b / T) \,\|\,
        \mathrm{softmax}(z^s_b / T) \big)

    with N = C in mode ``code`` and N = 1 in mode ``paper``, which is ``KD``. Give the run a teacher of the student's
    own architecture, trained on labels alone. The authors add :math:`\alpha m` times this (mode ``code``) to cross
    entropy with weight :math:`1 - \alpha`, on CIFAR-100 :math:`\alpha = 0.95` with T = 20 and m = 1 for MobileNetV2,
    T = 6 and m = 50 for ResNet-18.

    Args:
        temperature: Divides the logits of both networks before the softmax.
        mode: The formula of the released code, to which the published weights belong, or that of the paper.

    Shape:
        Logits ``(B, C)`` of both; output a scalar.

    Raises:
        InputError: If the temperature is not positive, the mode is another one or the shapes of the logits differ.

    Traps:
        - Mode ``code`` divides by the number of classes too, by the default reduction of ``kl_div``: over 100 classes
          the term is 100 times smaller than ``KD``.

    Code: ``yuanli2333/Teacher-free-Knowledge-Distillation:my_loss_function.py`` (loss_kd_self), equal to mode ``code``,
        without its cross entropy.

    Example:
        >>> import torch
        >>> student, teacher = Outputs(torch.zeros(2, 4)), Outputs(torch.zeros(2, 4))
        >>> TfKDSelf()(student, teacher, torch.tensor([0, 3]))
        tensor(0.)
    """

    def __init__(self, temperature: float = 20.0, mode: Literal["paper", "code"] = "code", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _check(1.0, temperature, mode)
        self.temperature = temperature
        self.mode: Literal["paper", "code"] = mode

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Mean divergence from the trained copy."""
        return tfkd_self(student.logits, teacher.logits, self.temperature, self.mode)
