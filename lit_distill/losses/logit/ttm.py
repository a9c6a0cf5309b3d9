"""Transformed teacher matching: a power transform of the teacher alone."""

from typing import Any

from torch import Tensor

from lit_distill.core.outputs import Outputs
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import check_same_shape, require
from lit_distill.losses.divergences.kl import kl_term
from lit_distill.losses.divergences.rows import reduce_rows
from lit_distill.losses.known_gradient import with_gradient
from lit_distill.losses.precision import fp32


@fp32
def ttm(student: Tensor, teacher: Tensor, gamma: float = 0.1) -> Tensor:
    r"""Divergence of the student from the teacher's probabilities raised to a power.

    The formula is that of :class:`TTM`.

    Args:
        student: Logits of the student, ``(B, C)``; more dimensions than one before the classes count as batch.
        teacher: Logits of the teacher, ``(B, C)``.
        gamma: The power, the inverse of a temperature.

    Returns:
        A scalar.

    Example:
        >>> import torch
        >>> ttm(torch.tensor([[0.5, 0.0]]), torch.tensor([[5.0, 0.0]]), gamma=0.1)
        tensor(0.)
    """
    _check_power(gamma)
    return reduce_rows(_rows(student, teacher, gamma))


@fp32
def wttm(student: Tensor, teacher: Tensor, gamma: float = 0.1) -> Tensor:
    r"""The divergence of :func:`ttm`, in which samples count by how smooth the teacher's answer is.

    The formula is that of :class:`WTTM`.

    Args:
        student: Logits of the student, ``(B, C)``; more dimensions than one before the classes count as batch.
        teacher: Logits of the teacher, ``(B, C)``.
        gamma: The power, the inverse of a temperature.

    Returns:
        A scalar.

    Example:
        >>> import torch
        >>> wttm(torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2), gamma=0.5)  # 2 ** 0.5 times that of ttm
        tensor(0.1699)
    """
    _check_power(gamma)
    smoothness = (gamma * teacher.log_softmax(-1)).exp().sum(-1)
    return reduce_rows(smoothness * _rows(student, teacher, gamma))


def _rows(student: Tensor, teacher: Tensor, gamma: float) -> Tensor:
    check_same_shape(student, teacher, "logits")
    # the normalised power of a softmax is the softmax of the scaled logits, in which nothing underflows
    return with_gradient(lambda s, t: kl_term(s, gamma * t), student, teacher)


def _check_power(gamma: float) -> None:
    require(gamma > 0, "gamma", gamma, "positive")


class TTM(LogitLoss):
    r"""The teacher is softened, the student is not.

    Paper: Zheng and Yang, Knowledge Distillation Based on Transformed Teacher Matching, ICLR 2024,
        https://arxiv.org/abs/2402.11148

    .. math:: \frac{1}{B} \sum_b \mathrm{KL}\Big( \frac{p^\gamma}{\sum_c p_c^\gamma} \,\Big\|\, q \Big)

    with the probabilities of teacher p and student q. The power transform is a temperature :math:`T = 1 / \gamma` for
    the teacher alone: compared with ``KD`` it adds a regulariser by the student's Rényi entropy. Beside cross entropy
    with weight 1 the authors weigh it by 45 (VGG-13 to VGG-8 on CIFAR-100).

    Args:
        gamma: The power :math:`\gamma` that flattens the teacher's probabilities below 1.

    Shape:
        Logits ``(B, C)`` of both; output a scalar.

    Raises:
        InputError: If ``gamma`` is not positive or the shapes of the logits differ.

    Traps:
        - A student at :math:`\gamma z^t` has value 0, not one that equals its teacher: logits shrink, and with them
          the student's confidence.
        - No factor :math:`T^2`: the student has no temperature.

    Code: ``zkxufo/TTM:distiller_zoo/ttm.py``, equal to the paper.

    Example:
        >>> import torch
        >>> student, teacher = Outputs(torch.tensor([[0.5, 0.0]])), Outputs(torch.tensor([[5.0, 0.0]]))
        >>> TTM(gamma=0.1)(student, teacher, torch.tensor([0]))
        tensor(0.)
    """

    def __init__(self, gamma: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _check_power(gamma)
        self.gamma = gamma

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Mean divergence of the batch."""
        return ttm(student.logits, teacher.logits, self.gamma)


class WTTM(LogitLoss):
    r"""The teacher is softened, and samples count the more the smoother its answer.

    Paper: Zheng and Yang, Knowledge Distillation Based on Transformed Teacher Matching, ICLR 2024,
        https://arxiv.org/abs/2402.11148

    .. math:: \frac{1}{B} \sum_b U_b \, \mathrm{KL}\Big( \frac{p^\gamma}{U_b} \,\Big\|\, q \Big), \quad
        U_b = \sum_c p_c^\gamma

    with the probabilities of teacher p and student q. In addition to CRD the authors weigh it by 4, with
    :math:`\gamma = 0.2` (VGG-13 to VGG-8 on CIFAR-100).

    Args:
        gamma: The power :math:`\gamma` that flattens the teacher's probabilities below 1.

    Shape:
        Logits ``(B, C)`` of both; output a scalar.

    Raises:
        InputError: If ``gamma`` is not positive or the shapes of the logits differ.

    Traps:
        - The weights :math:`U_b` are not normalised: with :math:`\gamma < 1` they lie between 1, for a certain
          teacher, and :math:`C^{1 - \gamma}`. A good weight of the term is that much smaller than that of ``TTM``.

    Code: ``zkxufo/TTM:distiller_zoo/wttm.py``, equal to the paper.

    Example:
        >>> import torch
        >>> student, teacher = Outputs(torch.tensor([[0.5, 0.0]])), Outputs(torch.tensor([[5.0, 0.0]]))
        >>> WTTM(gamma=0.1)(student, teacher, torch.tensor([0]))
        tensor(0.)
    """

    def __init__(self, gamma: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _check_power(gamma)
        self.gamma = gamma

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Mean weighted divergence of the batch."""
        return wttm(student.logits, teacher.logits, self.gamma)
