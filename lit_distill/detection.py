"""Distillation of networks that find objects."""

from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lit_distill.core.outputs import Outputs
from lit_distill.distiller import Distiller, detached
from lit_distill.errors import InputError
from lit_distill.losses.base import FeatureLoss
from lit_distill.metrics import AveragePrecision

#: Where torchvision's detectors keep their number of classes: RetinaNet and FCOS, SSD, and those in two stages.
CLASSES = (
    "head.classification_head.num_classes",
    "head.classification_head.num_columns",
    "roi_heads.box_predictor.cls_score.out_features",
)

Boxes = dict[str, Tensor]
DetectionBatch = tuple[Tensor, list[Boxes]] | list[Any]


class DetectionDistiller(Distiller):
    """Distils a detector of torchvision's kind with any terms on features: those of its pyramid, as a rule.

    Batches are images in [0, 1], ``(B, 3, H, W)``, and for each image a dict with ``boxes``, float ``(n, 4)``: left,
    top, right and bottom edge in pixels, and ``labels``, int64 ``(n,)``, from 1 on. Networks are torchvision's
    detectors, or others that in training mode answer images and targets with a dict of losses, and in eval mode images
    with a list of dicts: ``boxes``, ``labels`` and ``scores``.

    The student's own losses (``classification``, ``bbox_regression``, ... as the detector calls them) are terms of the
    objective, each with weight 1. ``losses`` come on top, and compare features alone: ``PKD``, ``MGD``, ``CWD``,
    ``FitNet``, ... Levels of a pyramid are called ``backbone.fpn.layer_blocks.0`` (the finest), ``.1``, ... Modules of
    a head run once for each level, of which a tap sees the last.

    Validation and test log ``map`` (COCO's mean average precision), ``map_50`` (at an intersection over union of 0.5),
    and with a teacher ``teacher_map`` and ``teacher_map_50``. Without terms and teacher this is plain supervised
    training: how a teacher is made.

    Args:
        losses: The terms on features by name; each has its own ``weight``. Default: none.
        teacher: The detector to learn from. Default: none; the student is its own teacher.

    Raises:
        InputError: As ``Distiller`` does; when a term compares more than features, or is called as one of the
            student's own losses; when the student is no detector.

    Example:
        >>> from torch.optim import SGD
        >>> from lit_distill.models import ConvNet, detector
        >>> module = DetectionDistiller(
        ...     student=detector(ConvNet(width=8, depth=4), num_classes=5, image_size=32, channels=32),
        ...     optimizer=SGD,
        ...     input_shape=(3, 32, 32),
        ... )
        >>> target = {"boxes": torch.tensor([[2.0, 2.0, 9.0, 9.0]]), "labels": torch.tensor([3])}
        >>> sorted(module.terms((torch.rand(2, 3, 32, 32), [target, target]))[1])
        ['bbox_ctrness', 'bbox_regression', 'classification']
    """

    measure = "map"
    measure_name = "mAP"

    def __init__(
        self, losses: dict[str, FeatureLoss] | None = None, teacher: nn.Module | None = None, **kwargs: Any
    ) -> None:
        for name, term in (losses or {}).items():
            if not isinstance(term, FeatureLoss):
                raise InputError(
                    f"losses.{name}: {type(term).__name__} is no term on features; a detector's own losses need none"
                )
        super().__init__(losses=dict(losses or {}), teacher=teacher, **kwargs)

    def examine(self, input_shape: tuple[int, ...]) -> Tensor:
        """Run both detectors once; zeros for as many classes as the student knows."""
        super().examine(input_shape)
        return torch.zeros(2, classes_of(self.student))

    def logits_of(self, answer: Any) -> Tensor:
        """Nothing, ``(B, 0)``: a detector answers with boxes.

        Raises:
            InputError: When it does not.
        """
        if not isinstance(answer, list) or not all(isinstance(said, dict) and "boxes" in said for said in answer):
            raise InputError(
                f"student and teacher must answer with a list of dicts with boxes, labels and scores, as torchvision's "
                f"detectors do; got a {type(answer).__name__}"
            )
        return torch.zeros(len(answer), 0)

    def build_metrics(self, num_classes: int) -> dict[str, Metric]:
        """The student's metrics, and the teacher's where there is one."""
        return {
            f"{of}{name}": AveragePrecision(thresholds) if thresholds else AveragePrecision()
            for of in ("", *(["teacher_"] if self.teacher is not None else []))
            for name, thresholds in (("map", None), ("map_50", (0.5,)))
        }

    def forward(self, x: Tensor) -> list[Boxes]:  # type: ignore[override]
        """What the student finds in each image: ``boxes``, ``labels`` and ``scores``, in eval mode."""
        found: list[Boxes] = self.student(x)
        self.taps_student.pop()  # nobody asks for them
        return found

    def terms(self, batch: DetectionBatch) -> tuple[Outputs, dict[str, Tensor]]:  # type: ignore[override]
        """The student's own losses, and the terms on features."""
        x, target = batch
        teacher = None if self.teacher is None else self.forward_teacher(x)
        own: dict[str, Tensor] = self.student(x, target)
        if twice := own.keys() & self.losses.keys():
            raise InputError(f"losses: {min(twice)!r} is a loss of the student's own; accepted is any other name")
        none = x.new_zeros(len(x), 0)
        student = Outputs(none, self.taps_student.pop())
        return student, own | self.distill(student, detached(student) if teacher is None else teacher, none)

    def training_metrics(self, logits: Tensor, target: Any) -> dict[str, Tensor]:
        """Nothing: in training mode a detector does not say what it finds."""
        return {}

    def predict_step(self, batch: Any, batch_idx: int) -> list[Boxes]:  # type: ignore[override]
        """What the student finds in each image."""
        return self(batch if isinstance(batch, Tensor) else batch[0])

    def evaluate(self, batch: DetectionBatch, stage: str) -> None:  # type: ignore[override]
        """Update and log this stage's metrics, the student's and the teacher's."""
        x, target = batch
        self.update_found(stage, "", self(x), target)
        if self.teacher is not None and self.taps_teacher is not None:
            found = self.teacher(x)
            self.taps_teacher.pop()
            self.update_found(stage, "teacher_", found, target)

    def update_found(self, stage: str, of: str, found: list[Boxes], target: list[Boxes]) -> None:
        """Update and log the metrics of one detector."""
        for name in (f"{of}map", f"{of}map_50"):
            metric = self.metrics[stage][name]  # type: ignore[index]
            metric.update(found, target)
            self.log(f"{stage}/{name}", metric, prog_bar=name == self.measure, batch_size=len(target))


def classes_of(detector: nn.Module) -> int:
    """The number of classes of a detector, the background among them.

    Args:
        detector: One of torchvision's.

    Raises:
        InputError: When it is another network.
    """
    for path in CLASSES:
        try:
            return int(attrgetter(path)(detector))
        except AttributeError:
            continue
    raise InputError(f"student: {type(detector).__name__} is none of torchvision's detectors, which are accepted")
