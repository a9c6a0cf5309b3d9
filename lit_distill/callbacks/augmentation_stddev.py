"""How good the data's augmentation is for distillation."""

from typing import Any

import lightning as L
import torch
from torch import nn

from lit_distill.core.taps import Taps
from lit_distill.distiller import Distiller
from lit_distill.errors import InputError
from lit_distill.metrics import TeacherStddev


class AugmentationStddev(L.Callback):
    r"""Logs the standard deviation of the teacher's mean probability over training samples: less is better.

    Paper: Wang et al., What Makes a "Good" Data Augmentation in Knowledge Distillation: A Statistical Perspective,
        NeurIPS 2022 (T. stddev), https://arxiv.org/abs/2012.02909

    .. math:: \frac{1}{C} \sum_c \mathrm{std}_{g} \Big( \frac{1}{n} \sum_{i \in g} p_c(x_i) \Big)

    with the teacher's probabilities p of the n samples of each group g. It predicts, from the teacher alone, how well
    students learn from samples that are augmented and mixed this way. To compare augmentations, run one preset with
    each for a few epochs; the student does not matter.

    Logged as ``train/teacher_stddev`` at the end of each epoch, over all samples since training began, as soon as
    there are two groups of them. The teacher is not asked again: what it says in training counts.
    :class:`~lit_distill.metrics.TeacherStddev` is the same for any loop.

    Args:
        group: Samples of a group, on each rank. Values of other sizes do not compare.

    Raises:
        InputError: When ``group`` is below 1, or the module has no teacher.

    Code: ``MingSun-Tse/Good-DA-in-KD:helper/loops.py`` (check_ce_var), equal to this.
    """

    def __init__(self, group: int = 640) -> None:
        if group < 1:
            raise InputError(f"group: {group} given to AugmentationStddev; accepted is a number of at least 1")
        self.group = group
        self._taps: tuple[nn.Module, Taps] | None = None
        self._metric: TeacherStddev | None = None
        self._resumed: dict[str, Any] | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Listen to the teacher."""
        if stage != "fit":
            return
        if not isinstance(pl_module, Distiller) or pl_module.teacher is None:
            raise InputError(
                f"callbacks: AugmentationStddev asks the teacher; this {type(pl_module).__name__} has none"
            )
        teacher = pl_module.teacher.module
        if self._taps is None or self._taps[0] is not teacher:  # a second fit with it needs no second tap
            self._taps = teacher, Taps(teacher, [""], "teacher")

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin anew."""
        self._metric = None

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Add what the teacher said in this step."""
        assert self._taps is not None
        logits = self._taps[1].pop()[""]
        if self._metric is None:
            self._metric = TeacherStddev(logits.shape[-1], self.group)
            self._metric.persistent(True)
            if self._resumed is not None:
                self._metric.load_state_dict(self._resumed)
                self._resumed = None
        self._metric.to(logits.device).update(logits)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the value so far."""
        if self._metric is not None and (value := self._metric.compute()).isfinite():
            pl_module.log("train/teacher_stddev", value)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add every rank's moments and its group that is not full yet; all ranks come here."""
        if self._metric is None:
            return
        own: Any = {name: value.cpu() for name, value in self._metric.state_dict().items()}
        ranks = [None] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(ranks, own)
        checkpoint["teacher_stddev"] = ranks if trainer.world_size > 1 else [own]

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on from this rank's moments; another number of ranks begins anew."""
        states = checkpoint.get("teacher_stddev", [])
        if trainer.state.fn == "fit" and len(states) == trainer.world_size:
            self._resumed = states[trainer.global_rank]
