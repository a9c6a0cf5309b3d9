"""One LightningModule for every method that adds terms to a student's loss."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from lit_distill.core.classification import Batch, ClassificationModule, example_forward
from lit_distill.core.frozen import Frozen
from lit_distill.core.outputs import Outputs
from lit_distill.core.taps import Taps
from lit_distill.errors import InputError
from lit_distill.losses.base import DistillLoss, FeatureLoss, LogitLoss, RelationalLoss
from lit_distill.metrics import TeacherAgreement, TeacherKL

#: Names under ``train/`` that no term can have.
LOGGED = ("loss", "acc")


class Distiller(ClassificationModule):
    """Distils a teacher into a student with any combination of terms.

    Three hooks make a step: :meth:`forward_student`, :meth:`forward_teacher` and :meth:`distill`. An objective of
    your own overrides ``distill``; a loss of your own subclasses :class:`~lit_distill.losses.base.DistillLoss`.

    Besides the student's metrics, validation and test log ``agreement`` (top-1, with the teacher), ``kl``
    (divergence from the teacher's answer, in nats) and ``teacher_acc``.

    Args:
        student: The network to train.
        losses: The terms of the objective by name; each has its own ``weight``.
        teacher: The network to learn from; it never trains and enters no checkpoint. Several teachers are one
            :class:`~lit_distill.models.Ensemble`. Without one the student is its own teacher: terms get its own
            answers, without gradients (self-distillation).

    Raises:
        InputError: When a term is called ``loss`` or ``acc``, a layer of one names no submodule, the networks do not
            take the input's shape, or a term needs a teacher and there is none.

    Example:
        >>> from torch.optim import Adam
        >>> from lit_distill.losses import KD, CrossEntropy
        >>> losses = {"ce": CrossEntropy(weight=0.1), "kd": KD(weight=0.9, temperature=4.0)}
        >>> student, teacher = nn.Linear(8, 3), nn.Linear(8, 3)
        >>> module = Distiller(student=student, teacher=teacher, losses=losses, optimizer=Adam)
        >>> sorted(module.state_dict())
        ['student.bias', 'student.weight']
    """

    def __init__(self, losses: dict[str, DistillLoss], teacher: nn.Module | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.losses = nn.ModuleDict(losses)
        for name, term in losses.items():
            if name in LOGGED:
                raise InputError(f"losses: {name!r} is logged for the whole objective; accepted is any other name")
            term.choose_layers(self.student, self.student if teacher is None else teacher)
        learnt = {s for term in losses.values() for s in term.layers}
        taught = {t for term in losses.values() for t in term.layers.values()}
        taught |= {member(term.teacher) for term in losses.values() if term.teacher is not None}
        self.teacher = None if teacher is None else Frozen(teacher)
        self.taps_student = Taps(self.student, learnt | taught if teacher is None else learnt, "student")
        self.taps_teacher = None if teacher is None else Taps(teacher, taught, "teacher")
        self.build()

    def examine(self, input_shape: tuple[int, ...]) -> Tensor:
        """Run both networks once on zeros, and let each term create what depends on their shapes."""
        with self.taps_student.checked(self.student):
            logits = self.logits_of(example_forward(self.student, input_shape, "student"))
        student = teacher = Outputs(logits, self.taps_student.pop())
        network = self.student
        if self.teacher is not None and self.taps_teacher is not None:
            network = self.teacher.module
            with self.taps_teacher.checked(network):
                teacher_logits = self.logits_of(example_forward(network, input_shape, "teacher"))
            teacher = Outputs(teacher_logits, self.taps_teacher.pop())
        self.comparable = self.teacher is not None and logits.shape[-1] == teacher.logits.shape[-1]
        for name, term in self.losses.items():
            assert isinstance(term, DistillLoss)
            if self.teacher is None and term.needs_teacher:
                raise InputError(f"teacher: not given, and losses.{name} ({type(term).__name__}) learns from one")
            term.attach(self.student, network)
            term.build(student, self.teacher_of(term, teacher))
        return logits

    def build_metrics(self, num_classes: int) -> dict[str, Metric]:
        """The student's metrics and its fidelity to the teacher."""
        fidelity: dict[str, Metric] = {
            "agreement": TeacherAgreement(),
            "kl": TeacherKL(),
            "teacher_acc": MulticlassAccuracy(num_classes, average="micro"),
        }
        return super().build_metrics(num_classes) | (fidelity if self.comparable else {})

    def forward(self, x: Tensor) -> Tensor:
        """The student's logits ``(B, C)``."""
        return self.forward_student(x).logits

    def forward_student(self, x: Tensor) -> Outputs:
        """What the student says about a batch, and the layers that the terms ask for."""
        return Outputs(self.logits_of(self.student(x)), self.taps_student.pop())

    def forward_teacher(self, x: Tensor) -> Outputs:
        """What the teacher says about the same batch, without gradients.

        Raises:
            InputError: When there is no teacher.
        """
        if self.teacher is None or self.taps_teacher is None:
            raise InputError("teacher: not given to this Distiller, whose student is its own; accepted is a network")
        return Outputs(self.logits_of(self.teacher(x)), self.taps_teacher.pop())

    def distill(self, student: Outputs, teacher: Outputs, target: Tensor) -> dict[str, Tensor]:
        """The unweighted terms of the objective; override it for one that is more than a sum of ``losses``.

        Args:
            student: What the student said.
            teacher: What the teacher said.
            target: Class indices ``(B,)`` or class probabilities ``(B, C)``.
        """
        return {name: term(student, self.teacher_of(term, teacher), target) for name, term in self.losses.items()}

    def teacher_of(self, term: nn.Module, teacher: Outputs) -> Outputs:
        """What the ensemble member that ``term`` names said; the whole teacher if it names none."""
        name = term.teacher
        return teacher if name is None else teacher._replace(logits=teacher.features[member(str(name))])

    def weight_of(self, term: str) -> float:
        """A term's own weight; 1 for a term that only ``distill`` knows."""
        return self.losses[term].weight if term in self.losses else 1.0  # type: ignore[return-value]

    def terms(self, batch: Batch) -> tuple[Outputs, dict[str, Tensor]]:
        """Both networks on one batch, and the terms of the objective."""
        x, target = batch[0], batch[1]
        index = batch[2] if len(batch) > 2 else None
        # The teacher first: its activations are freed before the student's, kept for the backward pass, are made.
        teacher = None if self.teacher is None else self.forward_teacher(x)._replace(sample_index=index)
        student = self.forward_student(x)._replace(sample_index=index)
        return student, self.distill(student, detached(student) if teacher is None else teacher, target)

    def evaluate(self, batch: Batch, stage: str) -> None:
        """Update and log this stage's metrics: the student's, and its fidelity to the teacher."""
        x, target = batch[0], batch[1]
        logits = self(x)
        self.update_metrics(stage, logits, target, ("acc", "ece"))
        if self.comparable:
            teacher = self.forward_teacher(x).logits
            self.update_metrics(stage, logits, teacher, ("agreement", "kl"))
            self.update_metrics(stage, teacher, target, ("teacher_acc",))

    def networks_to_shard(self) -> list[nn.Module]:
        """Both networks, and every term with parameters (each is called by itself)."""
        terms = [term for term in self.losses.values() if any(True for _ in term.parameters())]
        teachers = [] if self.teacher is None else [self.teacher.module]
        return [self.student, *teachers, *terms]


class LogitDistiller(Distiller):
    """A :class:`Distiller` whose terms compare logits only.

    Args:
        losses: Terms on logits by name.
    """

    def __init__(self, losses: dict[str, LogitLoss], **kwargs: Any) -> None:
        super().__init__(losses=_only(losses, LogitLoss), **kwargs)


class FeatureDistiller(Distiller):
    """A :class:`Distiller` whose terms compare logits and features.

    Args:
        losses: Terms on logits and features by name.
    """

    def __init__(self, losses: dict[str, LogitLoss | FeatureLoss], **kwargs: Any) -> None:
        super().__init__(losses=_only(losses, LogitLoss, FeatureLoss), **kwargs)


class RelationalDistiller(Distiller):
    """A :class:`Distiller` whose terms compare logits and relations between samples.

    Args:
        losses: Terms on logits and relations by name.
    """

    def __init__(self, losses: dict[str, LogitLoss | RelationalLoss], **kwargs: Any) -> None:
        super().__init__(losses=_only(losses, LogitLoss, RelationalLoss), **kwargs)


def member(name: str) -> str:
    """Path of an ensemble's member within the teacher."""
    return f"members.{name}"


def detached(outputs: Outputs) -> Outputs:
    """The same answers without gradients: a student that is its own teacher."""
    features = {path: value.detach() for path, value in outputs.features.items()}
    return outputs._replace(logits=outputs.logits.detach(), features=features)


def _only(losses: Mapping[str, DistillLoss], *accepted: type[DistillLoss]) -> dict[str, DistillLoss]:
    for name, term in losses.items():
        if not isinstance(term, accepted):
            kinds = " or ".join(kind.__name__ for kind in accepted)
            raise InputError(
                f"losses.{name}: {type(term).__name__} is not a {kinds}; use Distiller for any mix of terms"
            )
    return dict(losses)
