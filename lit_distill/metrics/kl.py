"""How far the student's answer is from the teacher's."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_distill.losses.precision import fp32
from lit_distill.metrics.rows import rows


@fp32
def teacher_kl(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Divergence of the student's answer from the teacher's for each sample ``(N,)``, in nats.

    .. math:: \mathrm{KL}(t \,\|\, s) = \sum_c t_c (\log t_c - \log s_c)

    at temperature 1. Classes that the teacher rules out (logit :math:`-\infty`) add nothing.

    Args:
        student: Logits of the student ``(..., C)``.
        teacher: Logits of the teacher ``(..., C)``.

    Raises:
        InputError: When the shapes differ or there is no class axis.

    Example:
        >>> teacher_kl(torch.zeros(1, 2), torch.tensor([[0.0, -float("inf")]]))  # log 2
        tensor([0.6931])
    """
    student, teacher = rows(student, teacher)
    log_s, log_t = student.log_softmax(-1), teacher.log_softmax(-1)
    t = log_t.exp()
    return torch.where(t > 0, t * (log_t - log_s), 0.0).sum(-1)


class TeacherKL(Metric):
    r"""Mean divergence of the student's answer from the teacher's over all samples of all ranks.

    .. math:: \frac{1}{N} \sum_n \sum_c t_{nc} (\log t_{nc} - \log s_{nc})

    in nats, at temperature 1 and in float32 whatever the precision of the logits.

    Example:
        >>> metric = TeacherKL()
        >>> metric.update(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.0]]))
        >>> metric.compute()
        tensor(0.)
    """

    is_differentiable = True
    higher_is_better = False
    full_state_update = False

    divergence: Tensor
    total: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("divergence", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, student: Tensor, teacher: Tensor) -> None:
        """Add one batch.

        Args:
            student: Logits of the student ``(..., C)``.
            teacher: Logits of the teacher ``(..., C)``.

        Raises:
            InputError: When the shapes differ or there is no class axis.
        """
        divergence = teacher_kl(student, teacher)
        self.divergence += divergence.sum()
        self.total += divergence.numel()

    def compute(self) -> Tensor:
        """The mean divergence so far, a scalar of at least 0."""
        return self.divergence / self.total
