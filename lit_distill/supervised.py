"""Plain supervised training: teachers and baselines."""

from typing import Any

from torch import Tensor

from lit_distill.core.classification import Batch, ClassificationModule
from lit_distill.core.outputs import Outputs
from lit_distill.losses.cross_entropy import CrossEntropy


class Supervised(ClassificationModule):
    """Trains a network on labels alone: how a teacher is made, and what a student is compared with.

    Args:
        label_smoothing: Probability mass spread evenly over all classes.
        temperature: Divides the logits in the cross entropy, not in validation and use: above 1 for the teacher of
            defensive distillation.
    """

    def __init__(self, label_smoothing: float = 0.0, temperature: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.criterion = CrossEntropy(label_smoothing=label_smoothing, temperature=temperature)
        self.build()

    def terms(self, batch: Batch) -> tuple[Outputs, dict[str, Tensor]]:
        """The cross-entropy with the labels."""
        student = self.forward_student(batch[0])
        return student, {"ce": self.criterion(student, student, batch[1])}
