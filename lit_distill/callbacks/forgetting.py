"""How often each training sample is forgotten."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lit_distill.callbacks.scores import data_of, write
from lit_distill.callbacks.student import student_of
from lit_distill.core.taps import Taps
from lit_distill.data.score_file import checked
from lit_distill.errors import InputError

NEVER = -1


class Forgetting(L.Callback):
    r"""Counts, over a whole training, how often the student forgets each sample.

    Paper: Toneva et al., An Empirical Study of Example Forgetting during Deep Neural Network Learning, ICLR 2019,
        https://arxiv.org/abs/1812.05159

    .. math:: \sum_{e > 1} \big[ a_i^{e - 1} = 1 \big] \big[ a_i^{e} = 0 \big]

    where :math:`a_i^e` says whether the student's answer about sample i was right when it came up in epoch e, before
    the step that it was a part of. A sample that is never learnt counts as forgotten in every epoch. ``ScoredSubset``
    trains on a part of the samples that is chosen by these counts.

    Written at the end of a finished run. Training itself does not change by a bit, and a resumed run counts what an
    uninterrupted one does. ``fast_dev_run``, and a run in which some sample came up less than twice, write nothing.

    Args:
        path: The file of scores; ends in ``.safetensors``. A card lies beside it.

    Raises:
        InputError: When ``path`` has another suffix, the module has no student, or the run has no data module of this
            library with ``index: true`` that neither mixes images nor makes strong views.

    Traps:
        - Few samples are ever forgotten: most counts are equal, and the ``seed`` of ``ScoredSubset`` decides.
        - Samples held out for validation have no score: train on a subset with the same ``val_fraction`` and
          ``split_seed``.

    Code: ``mtoneva/example_forgetting:order_examples_by_forgetting.py``, equal to this for one run; of several it adds
        the counts, of which ``ScoredSubset`` takes the mean.
    """

    def __init__(self, path: str) -> None:
        self.path = str(checked(path))
        self._taps: tuple[nn.Module, Taps] | None = None
        self._counts: dict[str, Tensor] = {}
        self._epoch = 0
        self._resumed: dict[str, Any] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Listen to the student."""
        if stage != "fit":
            return
        data = data_of(trainer, self)
        if not data.index or data.mix is not None or data.strong_view:
            raise InputError(
                "callbacks: Forgetting needs to know which sample is which; accepted are data with index: true and "
                "without mix and strong_view"
            )
        student = student_of(pl_module, self)
        if self._taps is None or self._taps[0] is not student:  # a second fit of a network needs no second tap
            self._taps = student, Taps(student, [""], "student")

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to count, or go on where a checkpoint says."""
        size = len(data_of(trainer, self).parts["train"].images.targets)
        counts = {name: torch.zeros(size, dtype=torch.int32) for name in ("events", "seen", "learnt")}
        counts |= {name: torch.full((size,), NEVER, dtype=torch.int32) for name in ("before", "now")}
        self._epoch = self._resumed.get("epoch", 0)
        counts |= self._resumed.get("counts", {})
        self._counts, self._resumed = {name: value.to(pl_module.device) for name, value in counts.items()}, {}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note which answers of this step were right."""
        assert self._taps is not None
        logits = self._taps[1].pop()[""]
        _, target, index = batch
        if trainer.current_epoch != self._epoch:
            self._close_epoch(trainer)
            self._epoch = trainer.current_epoch
        self._counts["now"][index] = (logits.argmax(-1) == target).int()

    def _close_epoch(self, trainer: L.Trainer) -> None:
        """Compare the answers of the epoch that has ended, of all ranks, with those before."""
        counts = self._counts
        now, before = self._merged(trainer), counts["before"]
        came_up = now != NEVER
        counts["events"] += (before == 1) & (now == 0)
        counts["learnt"] |= now == 1
        counts["seen"] += came_up
        counts["before"] = torch.where(came_up, now, before)
        counts["now"].fill_(NEVER)

    def _merged(self, trainer: L.Trainer) -> Tensor:
        # each sample comes up on one rank, and is NEVER on the others
        return trainer.strategy.reduce(self._counts["now"].clone(), reduce_op="max")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the counts."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._close_epoch(trainer)
        counts = self._counts
        fewest = int(counts["seen"].cpu()[data_of(trainer, self).parts["train"].positions].min())
        if fewest < 2:
            rank_zero_warn(f"Forgetting: some samples came up {fewest} times, at least 2 are needed; no {self.path}")
            return
        scores = torch.where(counts["learnt"].bool(), counts["events"], counts["seen"])
        write(self.path, scores, trainer, self, epochs=trainer.current_epoch)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the counts so far, and the answers of all ranks in this epoch; all ranks come here."""
        if not self._counts:
            return
        counts = self._counts | {"now": self._merged(trainer)}
        checkpoint["forgetting"] = {"epoch": self._epoch, "counts": {name: n.cpu() for name, n in counts.items()}}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take over the counts of a run that is resumed."""
        if trainer.state.fn == "fit":
            self._resumed = checkpoint.get("forgetting", {})
