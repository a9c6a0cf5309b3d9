"""What all modifiers share: they stand around a term and change what it is told."""

from collections.abc import Iterable

from torch import Tensor, nn

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses.base import LogitLoss


class Modifier(LogitLoss):
    """A term around another one, which hears something else than what the networks said.

    Modifiers nest in any order, and the outermost acts first: ``Standardised(TopK(KD()))`` standardises the logits
    of all classes and cuts them then. A subclass implements ``forward``, which ends with a call of this one.

    Only the outermost weight is the term's: one within must stay 1, so that no number is set without effect. Layers
    and teacher are those of the term within.

    Args:
        loss: The term to modify: any term on logits, another modifier included.
        weight: Factor of this term in the total; the weight of ``loss`` must stay 1.
        teacher: Name of the ensemble member this term listens to; default: the one that ``loss`` names, if any.

    Raises:
        InputError: If ``loss`` is no term on logits, has a weight of its own, or names another teacher.
    """

    def __init__(self, loss: LogitLoss, weight: float = 1.0, teacher: str | None = None) -> None:
        if not isinstance(loss, LogitLoss):
            raise InputError(f"loss must be a term on logits, got {type(loss).__name__}")
        if teacher is not None and loss.teacher not in (None, teacher):
            raise InputError(f"teacher must be that of the term within, {loss.teacher!r}, or left out, got {teacher!r}")
        super().__init__(weight=weight, teacher=teacher if teacher is not None else loss.teacher)
        self.loss = loss
        self.layers = dict(loss.layers)
        self.needs_teacher = self.needs_teacher and loss.needs_teacher
        self._check_weight()

    def attach(self, student: nn.Module, teacher: nn.Module) -> None:
        """Let the term within meet the two networks.

        Args:
            student: The student itself.
            teacher: The whole teacher, frozen.
        """
        self.loss.attach(student, teacher)

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Let the term within create its parameters.

        Args:
            student: What the student said about the example batch.
            teacher: What this term's teacher said about it.
        """
        self.loss.build(student, teacher)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """What the term within says, a scalar.

        Args:
            student: What the term within hears of the student.
            teacher: What it hears of its teacher.
            target: What it hears of the labels.
        """
        self._check_weight()  # schedules set weights during training
        return self.loss(student, teacher, target)

    def _check_weight(self) -> None:
        if self.loss.weight != 1:
            name = type(self).__name__
            raise InputError(
                f"weight of the loss within {name} must be 1, got {self.loss.weight}; weigh {name} instead"
            )


def samples(outputs: Outputs, rows: Tensor | slice, paths: Iterable[str]) -> Outputs:
    """What a network said about some of the samples of a batch.

    Args:
        outputs: What it said about all of them.
        rows: Which samples.
        paths: The layers to keep; others are left out.
    """
    return Outputs(
        outputs.logits[rows],
        {path: outputs.features[path][rows] for path in paths},
        None if outputs.sample_index is None else outputs.sample_index[rows],
    )
