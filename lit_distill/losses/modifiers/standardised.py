"""Standardised logits: the student need not match the teacher's scale."""

from typing import Any

from torch import Tensor

from lit_distill.core.outputs import Outputs
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import require
from lit_distill.losses.modifiers.base import Modifier
from lit_distill.losses.precision import fp32


@fp32
def standardised(logits: Tensor, eps: float = 1e-7) -> Tensor:
    r"""Logits with mean 0 and standard deviation 1 over the classes of each sample.

    .. math:: \frac{z_c - \bar z}{\epsilon + \sigma(z)}, \qquad \sigma^2(z) = \frac{1}{C - 1} \sum_c (z_c - \bar z)^2

    Args:
        logits: Scores ``(..., C)`` of at least two classes.
        eps: Added to the standard deviation.

    Returns:
        Scores ``(..., C)``.

    Raises:
        InputError: If there is one class only.

    Example:
        >>> import torch
        >>> standardised(torch.tensor([1.0, 2.0, 3.0]))
        tensor([-1.0000,  0.0000,  1.0000])
    """
    require(logits.shape[-1] > 1, "logits", f"shape {tuple(logits.shape)}", "of at least two classes")
    return (logits - logits.mean(-1, keepdim=True)) / (eps + logits.std(-1, keepdim=True))


class Standardised(Modifier):
    r"""Both networks' logits are standardised over the classes before any term on logits (LSKD).

    Paper: Sun et al., Logit Standardization in Knowledge Distillation, CVPR 2024,
        https://arxiv.org/abs/2403.01427

    .. math:: z_c \mapsto \frac{z_c - \bar z}{\epsilon + \sigma(z)}, \qquad
        \sigma^2(z) = \frac{1}{C - 1} \sum_c (z_c - \bar z)^2

    The student learns the teacher's relations between classes at a scale of its own; the scale it chooses follows
    from cross entropy alone. On CIFAR-100 the authors take ``KD`` at T = 2 with weight 9 (tuned between 1 and 18)
    beside cross entropy with weight 0.1; around ``DKD`` both of its factors are multiplied by 9.

    Args:
        loss: The term to modify: any term on logits, another modifier included.
        eps: Added to the standard deviation. A student whose logits are all equal, as those of a head that starts
            from zero are, gets gradients ``1 / eps`` times as large: raise it there.

    Shape:
        Logits ``(B, C)`` of both with at least two classes; output that of the term within.

    Raises:
        InputError: If ``eps`` is not positive or there is one class only; besides, as the term within.

    Traps:
        - The variance is divided by C - 1. Divided by C, the logits of 10 classes are 1.05 times as large.
        - The gradient flows through the student's mean and standard deviation.
        - The logits of C classes stay within :math:`(C - 1) / \sqrt C` of 0: the temperature must be low, and
          with few classes no answer is ever certain.
        - In ``CTKD/train_student.py`` of the authors' repository the switch ``--logit_stand`` is inverted.

    Code: ``sunshangquan/logit-standardization-KD:mdistiller/distillers/KD.py``, equal to the paper.

    Example:
        >>> import torch
        >>> from lit_distill.losses import KD
        >>> teacher = torch.tensor([[3.0, 1.0, 0.0]])
        >>> loss = Standardised(KD(temperature=2.0), weight=9.0)
        >>> loss(Outputs(5 * teacher - 7), Outputs(teacher), torch.tensor([0])).abs() < 1e-6
        tensor(True)
    """

    def __init__(self, loss: LogitLoss, eps: float = 1e-7, **kwargs: Any) -> None:
        super().__init__(loss, **kwargs)
        require(eps > 0, "eps", eps, "positive")
        self.eps = eps

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """The term within, of standardised logits."""
        student, teacher = (said._replace(logits=standardised(said.logits, self.eps)) for said in (student, teacher))
        return super().forward(student, teacher, target)
