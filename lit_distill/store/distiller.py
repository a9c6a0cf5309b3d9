"""Distillation from a teacher's stored answers."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_distill.core.classification import Batch, example_forward
from lit_distill.core.outputs import Outputs
from lit_distill.distiller import LogitDistiller
from lit_distill.errors import InputError
from lit_distill.losses.base import DistillLoss, LogitLoss
from lit_distill.store.agreement import with_views
from lit_distill.store.make import make_labels
from lit_distill.store.soft_labels import SoftLabels, complete
from lit_distill.store.topk import Kept, Rest, cut, expand, keep


class StoredDistiller(LogitDistiller):
    """Distils a teacher that is not asked in training: its answers about every augmented image lie on disk.

    A fast knowledge distillation framework (Shen and Xing, ECCV 2022, https://arxiv.org/abs/2112.01528) for any term on
    logits. The data module shows each image in a fixed number of ``views``, and in ``labels`` lies what the teacher
    said about each of them; terms hear it as log-probabilities, those of classes that were not stored as ``rest`` says.
    Terms that see logits through a softmax cannot tell them from logits.

    A fit makes the folder when it is missing, or completes it, once for all runs with the same teacher and data:
    ``lit-distill labels --config PRESET`` does the same beforehand. Only a trial of a part of an epoch
    (``fast_dev_run``, ``limit_train_batches``) asks the teacher itself then, and writes nothing. With the folder
    complete the teacher can be left out; given, validation measures the fidelity to it.

    Args:
        losses: Terms on logits by name.
        labels: Folder of the teacher's answers. The data module it is used with needs ``index: true`` and, if it
            augments, ``views``.
        topk: How many of the likeliest classes the terms hear of, at most as many as are stored; a folder that is made
            here holds so many.
        rest: What all other classes get: ``smoothing`` shares their probability out evenly (marginal smoothing),
            ``renorm`` gives them none (marginal re-norm).

    Raises:
        InputError: When a term reads layers of the teacher or names a member of an ensemble; when the folder is missing
            and there is no teacher to make it, or it was made with another teacher, data or settings of the data.
    """

    def __init__(
        self, losses: dict[str, LogitLoss], labels: str, topk: int = 5, rest: Rest = "smoothing", **kwargs: Any
    ) -> None:
        super().__init__(losses=_on_logits_alone(losses), **kwargs)
        if rest not in ("smoothing", "renorm"):
            raise InputError(f"rest: {rest!r} is not known; accepted are smoothing and renorm")
        self.folder = Path(labels).expanduser()
        self.topk = topk
        self.rest: Rest = rest
        self.stored: SoftLabels | None = None

    def examine(self, input_shape: tuple[int, ...]) -> Tensor:
        """Run the networks that there are once on zeros, and let each term create what depends on their shapes."""
        if self.teacher is not None:
            return super().examine(input_shape)
        with self.taps_student.checked(self.student):
            logits = example_forward(self.student, input_shape, "student")
        student = Outputs(logits, self.taps_student.pop())
        self.comparable = False
        for term in self.losses.values():
            assert isinstance(term, DistillLoss)
            term.attach(self.student, torch.nn.Identity())
            term.build(student, Outputs(logits, {"": logits}))
        return logits

    def setup(self, stage: str) -> None:
        """Open the stored answers before a fit, and make them if they are missing."""
        super().setup(stage)
        if stage == "fit":
            self.stored = self.find_labels()

    def find_labels(self) -> SoftLabels | None:
        """The teacher's answers about the images of this fit; none in a trial for which it is asked itself."""
        data = with_views(getattr(self.trainer, "datamodule", None))
        if not data.index:
            raise InputError("data.index: false; stored answers are found by the samples' positions, so set it to true")
        teacher = None if self.teacher is None else self.teacher.module
        if not complete(self.folder):
            if teacher is None:
                raise InputError(
                    f"labels: {self.folder} is missing or not complete, and there is no teacher to make it; give one, "
                    "or make it with `lit-distill labels`"
                )
            if self.is_trial():
                return None
            print(f"{self.folder} is missing or not complete: asking the teacher", flush=True)
            make_labels(self.folder, data, teacher, self.topk, device=self.trainer.strategy.root_device)
        stored = SoftLabels(self.folder)
        stored.check(data, teacher)
        if stored.card["classes"] != self.num_classes:
            raise InputError(
                f"labels: {self.folder} knows {stored.card['classes']} classes, the student {self.num_classes}"
            )
        if not 1 <= self.topk <= stored.card["topk"]:
            raise InputError(
                f"topk: {self.topk} given, and {self.folder} holds {stored.card['topk']}; accepted are 1 to that"
            )
        return stored

    def is_trial(self) -> bool:
        """Whether this fit sees a part of the training set alone; it is not worth asking about all of it then."""
        limit = self.trainer.limit_train_batches
        return bool(self.trainer.fast_dev_run) or isinstance(limit, int) or limit < 1.0  # type: ignore[attr-defined]

    def terms(self, batch: Batch) -> tuple[Outputs, dict[str, Tensor]]:
        """What the student said about one batch, and the terms of the objective."""
        x, target, index = batch
        logits = self.teacher_logits(x, index)
        # A term that compares layers of the student with the teacher's answer names the latter by an empty path.
        features = {path: logits for term in self.losses.values() for path in term.layers.values()}  # type: ignore[operator]
        teacher = Outputs(logits, features, index)
        student = self.forward_student(x)._replace(sample_index=index)
        return student, self.distill(student, teacher, target)

    def teacher_logits(self, x: Tensor, index: Tensor) -> Tensor:
        """Log-probabilities of the teacher for a batch, ``(B, C)``.

        Args:
            x: The images.
            index: Their positions in the full training set.
        """
        if self.stored is None:
            kept = keep(self.forward_teacher(x).logits, self.topk)
        else:
            view = self.current_epoch % self.stored.card["views"]
            kept = cut(Kept(*(part.to(x.device) for part in self.stored.rows(index, view))), self.topk)
        return expand(kept, self.num_classes, self.rest)


def _on_logits_alone(losses: dict[str, LogitLoss]) -> dict[str, LogitLoss]:
    """The terms, none of which asks for what is not stored."""
    for name, term in losses.items():
        if layers := sorted(path for path in term.layers.values() if path):
            raise InputError(f"losses.{name}: reads {', '.join(layers)} of the teacher; stored are its logits alone")
        if term.teacher is not None:
            raise InputError(f"losses.{name}.teacher: {term.teacher} is not stored, but the teacher as a whole alone")
    return losses
