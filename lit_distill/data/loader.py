"""A loader that continues in the middle of an epoch."""

from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, Dataset

from lit_distill.data.sampler import BatchKey, GlobalBatchSampler
from lit_distill.errors import InputError


class ResumableLoader:
    """Loads the batches that a sampler asks for, and can say and restore how far it has come.

    Lightning keeps :meth:`state_dict` in its checkpoints, so a resumed epoch consists of exactly the batches that
    are still to be trained on, whatever the number of workers; also on another number of processes, as long as
    ``batch_size * processes`` stays the same.

    It holds a ``DataLoader`` instead of being one: a ``DataLoader`` Lightning would rebuild for prediction and for
    ``overfit_batches`` with samplers that know nothing of whole batches, and scold for having few workers where
    the data lies in memory.

    Args:
        dataset: Takes a :class:`~lit_distill.data.sampler.BatchKey`, gives a whole batch.
        sampler: Which batches, in which order.
        num_workers: Processes that prepare batches; 0 prepares them in the main process.
        pin_memory: Put batches in page-locked memory, from which copies to CUDA devices are faster.
        trainer: The trainer that this loader is made for, if there is one.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        sampler: GlobalBatchSampler,
        num_workers: int = 0,
        pin_memory: bool = False,
        trainer: Trainer | None = None,
    ) -> None:
        self.sampler = sampler
        self.batch_sampler = None  # Lightning looks for both, as a DataLoader has them
        self._trainer = trainer
        self._batches = DataLoader(
            _Guarded(dataset),
            batch_size=None,
            sampler=sampler,
            num_workers=num_workers,
            pin_memory=pin_memory,
            generator=torch.Generator(),  # it seeds workers from this; from the global generator otherwise
        )
        self._epoch = 0
        self._loaded = 0
        self._fresh = True
        self._resumed: dict[str, int] | None = None

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        # A generator, so that nothing happens before the first batch is asked for: Lightning calls iter() before
        # it tells the sampler the epoch, and workers would fetch the wrong one's batches ahead.
        if (trainer := self._trained_by()) is not None:
            # after a run limited by max_steps is resumed from the end of an epoch, Lightning tells the sampler
            # one too many
            self.sampler.set_epoch(trainer.current_epoch)
        self._epoch, self._loaded = self.sampler.epoch, self._start()
        self._fresh = False
        self.sampler.start = self._loaded
        for batch in self._batches:
            if isinstance(batch, InputError):
                raise batch
            self._loaded += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The epoch and how many of its batches have been trained on."""
        if self._resumed is not None:
            return self._resumed
        batches = self._loaded
        if (trainer := self._trained_by()) is not None:
            # a step that is stopped half-way has loaded a batch that is still to be trained on
            batches = min(batches, _batches_trained(trainer))
        return {"epoch": self._epoch, "batches": batches, "global_batch": self.sampler.global_batch}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continue where ``state_dict`` says, if the next epoch is the one it speaks of."""
        self._resumed = state_dict

    def _start(self) -> int:
        """The number of the first batch of the epoch that begins."""
        state, self._resumed = self._resumed, None
        if state is None:
            # Lightning does not hand the state over when something (a schedule that asks for the number of steps,
            # say) had the loader made before the checkpoint was read; the trainer's own count is restored by now
            trainer = self._trained_by()
            return _batches_trained(trainer) if self._fresh and trainer is not None else 0
        if state["epoch"] != self.sampler.epoch or state["batches"] == 0:
            return 0
        if state["global_batch"] != self.sampler.global_batch:
            raise InputError(
                f"batch_size: {self.sampler.global_batch} samples a step over all processes cannot continue an "
                f"epoch begun with {state['global_batch']}; use the same or resume from the end of an epoch"
            )
        return state["batches"]

    def _trained_by(self) -> Trainer | None:
        """The trainer, if it trains on this very loader."""
        return self._trainer if self._trainer is not None and self._trainer.train_dataloader is self else None


def _batches_trained(trainer: Trainer) -> int:
    return trainer.fit_loop.epoch_loop.batch_progress.current.processed  # type: ignore[attr-defined]


class _Guarded(Dataset[Any]):
    """Hands an input error over as a value: raised in a worker it would arrive wrapped in a traceback."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitem__(self, key: BatchKey) -> Any:
        try:
            return self.dataset[key]
        except InputError as error:
            return error
