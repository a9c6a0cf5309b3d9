"""Cross entropy with the labels."""

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import require


class CrossEntropy(LogitLoss):
    r"""Cross entropy of the student with the labels; the teacher is not asked.

    Paper: Szegedy et al., Rethinking the Inception Architecture for Computer Vision, CVPR 2016 (label
        smoothing), https://arxiv.org/abs/1512.00567

    .. math:: -\frac{1}{B} \sum_b \sum_c \Big( (1 - \epsilon) y_{bc} + \frac{\epsilon}{C} \Big) \log q_{bc}

    with the student's probabilities q and the label y, one class or a distribution.

    Args:
        label_smoothing: Share of the label that goes to all classes alike, in [0, 1].

    Shape:
        Student logits ``(B, C)``; target class indices ``(B,)``, or class probabilities ``(B, C)``; output a
        scalar.

    Raises:
        InputError: If ``label_smoothing`` lies outside [0, 1], or the target fits neither form.

    Traps:
        - Where mixup and the data already smooth the labels, ``label_smoothing`` does so a second time.

    Code: ``pytorch/pytorch:torch/nn/functional.py`` (cross_entropy), which this is.

    Example:
        >>> import torch
        >>> outputs = Outputs(torch.zeros(2, 4))
        >>> CrossEntropy()(outputs, outputs, torch.tensor([0, 3]))
        tensor(1.3863)
    """

    def __init__(self, label_smoothing: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require(0 <= label_smoothing <= 1, "label_smoothing", label_smoothing, "in [0, 1]")
        self.label_smoothing = label_smoothing

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Mean cross entropy of the batch."""
        logits = student.logits
        hard = target.shape == logits.shape[:1] and not target.is_floating_point()
        soft = target.shape == logits.shape and target.is_floating_point()
        if not hard and not soft:
            raise InputError(
                f"target must be class indices {tuple(logits.shape[:1])} or class probabilities "
                f"{tuple(logits.shape)}, got {target.dtype} {tuple(target.shape)}"
            )
        return F.cross_entropy(logits, target, label_smoothing=self.label_smoothing)
