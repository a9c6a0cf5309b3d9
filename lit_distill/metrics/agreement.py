"""How often student and teacher answer the same."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_distill.metrics.rows import rows


def teacher_agreement(student: Tensor, teacher: Tensor) -> Tensor:
    """Fraction of samples on which both networks have the same top class, a scalar.

    Args:
        student: Logits of the student ``(..., C)``.
        teacher: Logits of the teacher ``(..., C)``.

    Raises:
        InputError: When the shapes differ or there is no class axis.

    Example:
        >>> teacher_agreement(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
        tensor(0.5000)
    """
    return _same(student, teacher).float().mean()


class TeacherAgreement(Metric):
    r"""Top-1 agreement of student and teacher over all samples of all ranks.

    .. math:: \frac{1}{N} \sum_n \big[\arg\max_c s_{nc} = \arg\max_c t_{nc}\big]

    How faithful a student is to its teacher is another question than how accurate it is (Stanton et al.,
    "Does Knowledge Distillation Really Work?", NeurIPS 2021, https://arxiv.org/abs/2106.05945).

    Example:
        >>> metric = TeacherAgreement()
        >>> metric.update(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
        >>> metric.compute()
        tensor(0.5000)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    agreed: Tensor
    total: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("agreed", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, student: Tensor, teacher: Tensor) -> None:
        """Add one batch.

        Args:
            student: Logits of the student ``(..., C)``.
            teacher: Logits of the teacher ``(..., C)``.

        Raises:
            InputError: When the shapes differ or there is no class axis.
        """
        same = _same(student, teacher)
        self.agreed += same.sum()
        self.total += same.numel()

    def compute(self) -> Tensor:
        """The agreement so far, a scalar in [0, 1]."""
        return self.agreed / self.total


def _same(student: Tensor, teacher: Tensor) -> Tensor:
    student, teacher = rows(student, teacher)
    return student.argmax(-1) == teacher.argmax(-1)
