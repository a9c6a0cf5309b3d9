"""Terms on logits that a network gives on the side."""

from typing import Any

from torch import Tensor

from lit_distill.core.outputs import Outputs
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import require
from lit_distill.losses.modifiers.base import Modifier


class OnLayers(Modifier):
    r"""The term hears of a pair of layers instead of the networks' answers.

    Paper: Cloud et al., Subliminal Learning: Language Models Transmit Behavioral Traits via Hidden Signals in Data,
        arXiv 2025 (auxiliary logits in its experiment on MNIST), https://arxiv.org/abs/2507.14805

    .. math:: \ell \big( h^s(x), \; h^t(x) \big)

    For outputs of a network that are not its answer: auxiliary logits, a second head, an exit. The labels stay.

    Args:
        loss: The term to modify: any term on logits, another modifier included.
        layers: The student's module path to the teacher's, one pair; what they give is taken for logits.

    Shape:
        Layers ``(B, M)`` of both; the term within gets them as logits; output that of the term within.

    Raises:
        InputError: If there is not exactly one pair of layers; besides, as the term within.

    Traps:
        - The layers must give scores before a softmax, as many in the student as in the teacher.
        - Alone it leaves the answer's own weights without a gradient: they stay where they began.

    Code: ``MinhxLe/subliminal-learning:scripts/run_mnist_experiment.py`` (distill), with ``KD`` at temperature 1
        within.

    Example:
        >>> import torch
        >>> from lit_distill.losses import KD
        >>> loss = OnLayers(KD(temperature=1.0), layers={"auxiliary": "auxiliary"})
        >>> student, teacher = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> answer = torch.zeros(1, 10)
        >>> loss(Outputs(answer, {"auxiliary": student}), Outputs(answer, {"auxiliary": teacher}), torch.tensor([0]))
        tensor(0.4621)
    """

    def __init__(self, loss: LogitLoss, layers: dict[str, str], **kwargs: Any) -> None:
        super().__init__(loss, **kwargs)
        require(len(layers) == 1, "layers", layers, "one pair {student path: teacher path}")
        ((self.student_path, self.teacher_path),) = layers.items()
        self.layers |= layers

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Let the term within create its parameters for these layers.

        Args:
            student: What the student said about the example batch.
            teacher: What this term's teacher said about it.
        """
        super().build(self._heard(student, self.student_path), self._heard(teacher, self.teacher_path))

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """The term within, of the two layers."""
        heard = self._heard(student, self.student_path), self._heard(teacher, self.teacher_path)
        return super().forward(*heard, target)

    @staticmethod
    def _heard(outputs: Outputs, path: str) -> Outputs:
        return outputs._replace(logits=outputs.features[path])
