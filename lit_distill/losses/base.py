"""The terms of an objective: one base class, three narrow faces."""

from typing import Any

from torch import Tensor, nn

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses.layer_pairs import layer_pairs
from lit_distill.models.layer_views import View


class DistillLoss(nn.Module):
    """One term of an objective.

    A subclass implements :meth:`forward`; one whose parameters depend on the shapes of both networks creates
    them in :meth:`build`; one that learns something without a teacher sets ``needs_teacher = False``.

    Args:
        weight: Factor of this term in the total; 0 switches it off. Schedules change it during training.
        layers: Student module path to teacher module path, for terms that compare features.
        teacher: Which of several teachers this term listens to: a member's name of an ``Ensemble``. Default:
            the teacher as a whole.
    """

    #: Whether the term has nothing to learn from when the student is its own teacher.
    needs_teacher: bool = True

    def __init__(self, weight: float = 1.0, layers: dict[str, str] | None = None, teacher: str | None = None) -> None:
        super().__init__()
        self.weight = weight
        self.layers = dict(layers or {})
        self.teacher = teacher

    def choose_layers(self, student: nn.Module, teacher: nn.Module) -> None:
        """Set ``layers`` if none were given. Called once, before any other method and before taps are set.

        Args:
            student: The student itself.
            teacher: The whole teacher, frozen.
        """

    def attach(self, student: nn.Module, teacher: nn.Module) -> None:
        """Meet the two networks, for a term that uses a part of one (the teacher's classifier, say).

        Called once, before :meth:`build`. Keep what is needed in a tuple: an attribute that is a module would
        become a part of this term, and the student's weights would stand in checkpoints twice.

        Args:
            student: The student itself.
            teacher: The whole teacher, frozen.
        """

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Create the parameters whose shapes depend on the two networks.

        Called once, with the outputs of a dry run, before the optimizer exists.

        Args:
            student: What the student said about the example batch.
            teacher: What this term's teacher said about it.
        """

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """The unweighted value of this term, a scalar.

        Args:
            student: What the student said, with gradients.
            teacher: What this term's teacher said, without.
            target: Class indices ``(B,)``, or class probabilities ``(B, C)`` under mixup and label smoothing.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement forward(student, teacher, target)")


class LogitLoss(DistillLoss):
    """A term that compares what both networks answer.

    Args:
        weight: Factor of this term in the total.
        teacher: Name of the ensemble member this term listens to; default: the teacher as a whole.
    """

    def __init__(self, weight: float = 1.0, teacher: str | None = None) -> None:
        super().__init__(weight=weight, teacher=teacher)


class FeatureLoss(DistillLoss):
    """A term that compares activations of pairs of layers.

    Args:
        layers: Student module path to teacher module path. Default: those that the method's authors compare, found in
            both networks and paired by their position; see :func:`lit_distill.models.default_layers`.
        weight: Factor of this term in the total.
        teacher: Name of the ensemble member this term listens to; default: the teacher as a whole.

    Raises:
        InputError: When the layers are an empty dict, or none are given and nothing is known about a network.
    """

    #: Which layers of both networks are compared when none are given.
    default_view: View = "stages"

    def __init__(self, layers: dict[str, str] | None = None, weight: float = 1.0, teacher: str | None = None) -> None:
        if layers is not None and not layers:
            raise InputError(f"layers: {type(self).__name__} got none; accepted are {{student path: teacher path}}")
        super().__init__(weight=weight, layers=layers, teacher=teacher)

    def choose_layers(self, student: nn.Module, teacher: nn.Module) -> None:
        """Pair the default layers of both networks if none were given.

        Args:
            student: The student itself.
            teacher: The whole teacher, frozen.
        """
        if self.layers:
            return
        self.layers = layer_pairs(student, teacher, self.default_view, self.default_view, self.teacher)

    def pairs(self, student: Outputs, teacher: Outputs) -> list[tuple[Tensor, Tensor]]:
        """Student and teacher activations of each pair of layers, in the order of ``layers``."""
        return [(student.features[s], teacher.features[t]) for s, t in self.layers.items()]


class RelationalLoss(FeatureLoss):
    """A term that compares relations between the samples of a batch.

    Args:
        gather: Compare the samples of all ranks instead of this rank's alone (with gradients); without it the
            value of the term depends on how many devices share the batch.
        layers: Student module path to teacher module path. Default: those that the method's authors compare, found in
            both networks and paired by their position.
        weight: Factor of this term in the total.
        teacher: Name of the ensemble member this term listens to; default: the teacher as a whole.
    """

    default_view: View = "last"

    def __init__(self, gather: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gather = gather
