"""Batches of the whole job, dealt to its processes."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler, SequentialSampler

from lit_distill.data.counter_rng import Draw, permutation
from lit_distill.errors import InputError


class BatchKey(NamedTuple):
    """What a data set needs to know to make one batch.

    Attributes:
        samples: Which samples, as positions in the part of the data that the sampler was made for.
        epoch: The epoch.
        number: The number of the batch within the epoch, the same on every process.
    """

    samples: list[int]
    epoch: int
    number: int


class GlobalBatchSampler(DistributedSampler[BatchKey]):
    """Shuffled batches for training.

    A permutation drawn from (seed, epoch) is cut into global batches of ``batch_size * num_replicas``, and every
    process takes its share of each: two processes with batches of 32 see what one process with batches of 64
    sees. The shares of an incomplete last batch differ by at most one sample; only when it holds fewer samples
    than there are processes is it dropped.

    It yields whole batches, so a loader takes it as ``DataLoader(dataset, batch_size=None, sampler=...)``. It is a
    ``DistributedSampler`` so that Lightning does not wrap another around it.

    Args:
        size: How many samples there are.
        batch_size: Samples a batch, of each process.
        num_replicas: How many processes share the data.
        rank: Which of them this is.
        seed: Seed of the shuffling.

    Raises:
        InputError: When there are fewer samples than processes.

    Example:
        >>> one = GlobalBatchSampler(size=10, batch_size=4)
        >>> [len(batch.samples) for batch in one]
        [4, 4, 2]
        >>> two = [GlobalBatchSampler(size=10, batch_size=2, num_replicas=2, rank=rank) for rank in (0, 1)]
        >>> [a.samples + b.samples for a, b in zip(*two)] == [batch.samples for batch in one]
        True
    """

    def __init__(self, size: int, batch_size: int, num_replicas: int = 1, rank: int = 0, seed: int = 0) -> None:
        if size < num_replicas:
            raise InputError(f"devices: {num_replicas} processes cannot share {size} samples; use at most {size}")
        super().__init__(range(size), num_replicas, rank, seed=seed)  # type: ignore[arg-type]
        self.size = size
        self.global_batch = batch_size * num_replicas
        self.start = 0  # number of the first batch to yield: a resumed epoch starts in its middle

    def order(self) -> Tensor:
        """The samples of this epoch in the order in which they are dealt."""
        return permutation(self.seed, self.epoch, Draw.SHUFFLE, self.size)

    def __len__(self) -> int:
        full, rest = divmod(self.size, self.global_batch)
        return full + (rest >= self.num_replicas)

    def __iter__(self) -> Iterator[BatchKey]:
        order = self.order()
        for number in range(self.start, len(self)):
            batch = order[number * self.global_batch : self.end(number)]
            share = torch.tensor_split(batch, self.num_replicas)[self.rank]
            yield BatchKey(share.tolist(), self.epoch, number)

    def end(self, number: int) -> int:
        """Where in the order the batch of this number ends."""
        return (number + 1) * self.global_batch


class SequentialBatchSampler(GlobalBatchSampler, SequentialSampler):  # type: ignore[misc]
    """The data in its own order, for evaluation: nothing is dropped and nothing repeated.

    A remainder with fewer samples than there are processes joins the batch before it, so that every process has
    the same number of batches. It is a ``SequentialSampler`` too, which ``Trainer(overfit_batches=...)`` accepts.

    Example:
        >>> two = [SequentialBatchSampler(size=9, batch_size=2, num_replicas=2, rank=rank) for rank in (0, 1)]
        >>> [[batch.samples for batch in sampler] for sampler in two]
        [[[0, 1], [4, 5, 6]], [[2, 3], [7, 8]]]
    """

    def order(self) -> Tensor:
        """The samples in their own order."""
        return torch.arange(self.size)

    def end(self, number: int) -> int:
        """Where in the order the batch of this number ends."""
        return self.size if number + 1 == len(self) else super().end(number)
