"""Distillation of networks that say the class of every pixel."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from lit_distill.core.classification import Batch
from lit_distill.core.outputs import Outputs
from lit_distill.distiller import Distiller
from lit_distill.errors import InputError
from lit_distill.losses.base import DistillLoss
from lit_distill.metrics import TeacherAgreement, TeacherKL

#: What is measured of every network.
OF_A_NETWORK = ("miou", "acc")


class SegmentationDistiller(Distiller):
    """Distils a network that says the class of every pixel, with any combination of terms.

    Batches are images ``(B, 3, H, W)`` and the class of every pixel, int64 ``(B, H, W)``, below 0 where it counts for
    nothing. Networks answer with maps of logits ``(B, C, H, W)``, or as torchvision's segmenters do with a dict that
    has them under ``out``.

    Every pixel is a sample: terms on logits (``CrossEntropy``, ``KD``, ``DKD``, ...) get those of all pixels that
    count, ``(N, C)``, and take their mean. Terms on features get whole maps. So does a term on the map of logits, such
    as ``CWD`` with ``layers: {classifier: classifier}`` for torchvision's segmenters.

    Validation and test log ``miou`` (intersection over union, the mean over classes), ``acc`` (the share of pixels),
    and with a teacher ``teacher_miou``, ``teacher_acc``, ``agreement`` and ``kl``. Without a teacher, and with
    ``CrossEntropy`` alone, this is plain supervised training: how a teacher is made.

    Args:
        losses: The terms of the objective by name; each has its own ``weight``.
        teacher: The network to learn from. Default: none; the student is its own teacher.

    Raises:
        InputError: As ``Distiller`` does, and when the student does not answer with logits of every pixel.

    Example:
        >>> import torch
        >>> from lit_distill.losses import CrossEntropy
        >>> module = SegmentationDistiller(
        ...     student=nn.Conv2d(3, 5, 1),
        ...     losses={"ce": CrossEntropy()},
        ...     optimizer=torch.optim.Adam,
        ...     input_shape=(3, 8, 8),
        ... )
        >>> module(torch.zeros(2, 3, 8, 8)).shape, module.num_classes
        (torch.Size([2, 5, 8, 8]), 5)
    """

    measure = "miou"
    measure_name = "mIoU"

    def __init__(self, losses: dict[str, DistillLoss], teacher: nn.Module | None = None, **kwargs: Any) -> None:
        super().__init__(losses=losses, teacher=teacher, **kwargs)

    def examine(self, input_shape: tuple[int, ...]) -> Tensor:
        """Run both networks once, and look whether the student answers for every pixel."""
        logits = super().examine(input_shape)
        pixels = input_shape[-2] * input_shape[-1]
        if len(logits) != 2 * pixels:
            raise InputError(
                f"student: answers for {len(logits) // 2} pixels of an image {tuple(input_shape)}; accepted are logits "
                "of the image's height and width"
            )
        return logits

    def logits_of(self, answer: Any) -> Tensor:
        """The logits of every pixel, ``(B H W, C)``, in a map or in what torchvision's segmenters answer."""
        return maps_in(answer).movedim(1, -1).flatten(0, -2)

    def build_metrics(self, num_classes: int) -> dict[str, Metric]:
        """The student's metrics, and where there is a teacher its own and the fidelity to it."""
        metrics = of_pixels(num_classes)
        if self.comparable:
            metrics |= {f"teacher_{name}": metric for name, metric in of_pixels(num_classes).items()}
            metrics |= {"agreement": TeacherAgreement(), "kl": TeacherKL()}
        return metrics

    def forward(self, x: Tensor) -> Tensor:
        """The student's logits ``(B, C, H, W)``."""
        maps = maps_in(self.student(x))
        self.taps_student.pop()  # nobody asks for them
        return maps

    def distill(self, student: Outputs, teacher: Outputs, target: Tensor) -> dict[str, Tensor]:
        """The unweighted terms of the objective, on the pixels that count.

        Args:
            student: What the student said, with logits ``(B H W, C)``.
            teacher: What the teacher said.
            target: Class of every pixel, ``(B H W,)``.
        """
        counts = target >= 0
        if not counts.all():
            student = student._replace(logits=student.logits[counts])
            teacher = teacher._replace(logits=teacher.logits[counts])
            target = target[counts]
        return super().distill(student, teacher, target)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The weighted sum of the terms, in which every pixel is a sample."""
        return super().training_step((batch[0], batch[1].flatten()), batch_idx)

    def training_metrics(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The share of the batch's pixels that are classified correctly, of those that count."""
        counts = target >= 0
        return {"acc": ((logits.argmax(-1) == target) & counts).sum() / counts.sum().clamp(min=1)}

    def evaluate(self, batch: Batch, stage: str) -> None:
        """Update and log this stage's metrics: the student's, the teacher's, and the fidelity to it."""
        x, target = batch[0], batch[1].flatten()
        counts = target >= 0
        logits, target = self.forward_student(x).logits[counts], target[counts]
        self.update_metrics(stage, logits, target, OF_A_NETWORK)
        if self.comparable:
            teacher = self.forward_teacher(x).logits[counts]
            self.update_metrics(stage, teacher, target, tuple(f"teacher_{name}" for name in OF_A_NETWORK))
            self.update_metrics(stage, logits, teacher, ("agreement", "kl"))


def maps_in(answer: Any) -> Tensor:
    """The maps of logits ``(B, C, H, W)`` in what a segmenter answers.

    Args:
        answer: The maps, or a dict that has them under ``out``.

    Raises:
        InputError: When it is neither.
    """
    maps = answer.get("out") if isinstance(answer, Mapping) else answer
    if not isinstance(maps, Tensor) or maps.ndim != 4:
        given = f"shape {tuple(maps.shape)}" if isinstance(maps, Tensor) else type(answer).__name__
        raise InputError(f"student and teacher must answer with logits (B, C, H, W), alone or as 'out'; got {given}")
    return maps


def of_pixels(num_classes: int) -> dict[str, Metric]:
    """The metrics of one network by name; each takes logits and classes of pixels."""
    return {
        "miou": MulticlassJaccardIndex(num_classes, average="macro"),
        "acc": MulticlassAccuracy(num_classes, average="micro"),
    }
