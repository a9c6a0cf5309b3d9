"""The best weights of a run and the last ones, also over an interruption."""

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor


class Checkpoint(ModelCheckpoint):
    """Lightning's ``ModelCheckpoint``, with two differences.

    With ``save_last``, ``last.ckpt`` is what the run has come to. Lightning 2.6 writes it only together with a new
    best one: an interrupted run would begin again where it was best, and lose all epochs since.

    A resumed run goes on comparing with the best so far. It has a folder of its own, in which Lightning would forget
    what was best before.
    """

    def _save_topk_checkpoint(self, trainer: Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        super()._save_topk_checkpoint(trainer, monitor_candidates)
        # This is how Lightning knows that something was saved in this step, and that the last one is due.
        self._last_global_step_saved = trainer.global_step

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the state of a checkpoint, whatever folder it lies in."""
        super().load_state_dict(state_dict | {"dirpath": self.dirpath})
