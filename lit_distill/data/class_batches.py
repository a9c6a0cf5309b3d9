"""Batches with equally many images of every class."""

from collections.abc import Iterator

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from lit_distill.data.base import ImageData, at_least
from lit_distill.data.counter_rng import Draw, permutation
from lit_distill.data.loader import ResumableLoader
from lit_distill.data.parts import RawBatch
from lit_distill.data.sampler import BatchKey, GlobalBatchSampler
from lit_distill.errors import InputError


class ClassBatches(LightningDataModule):
    """The training images of another data module, so many of each class a batch: what datasets are distilled from.

    Batches are ``(x, target)``: normalised images ``(K * per_class, C, H, W)``, class by class, and their classes.
    Nothing is augmented: that is for the method to do. With several processes each one gets some of the classes, whole.

    An epoch is as many batches as it takes to show as many images as there are. Within it no image of a class comes
    again before all of that class have come. Batches depend on ``seed``, the epoch and their number alone.

    Attributes:
        num_classes: The number of classes.
        input_shape: Channels, height and width of an image.
        mean: Of each channel over the training set, with pixels in [0, 1].
        std: Standard deviation, likewise.

    Args:
        data: Where the images come from; what it holds out for validation is never among them. Its ``batch_size`` and
            augmentation do not matter.
        per_class: Images of each class a batch.
        seed: Of the order.

    Raises:
        InputError: When ``per_class`` is below 1, there are more processes than classes, or a class has no image.
    """

    def __init__(self, data: ImageData, per_class: int = 64, seed: int = 0) -> None:
        super().__init__()
        self.data = data
        self.per_class = at_least(1, per_class, "per_class")
        self.seed = seed

    @property
    def num_classes(self) -> int:  # noqa: D102
        return self.data.num_classes

    @property
    def input_shape(self) -> tuple[int, int, int]:  # noqa: D102
        return self.data.input_shape

    @property
    def mean(self) -> tuple[float, ...]:  # noqa: D102
        return self.data.mean

    @property
    def std(self) -> tuple[float, ...]:  # noqa: D102
        return self.data.std

    def prepare_data(self) -> None:
        """Download what is missing."""
        self.data.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Read the sets that a stage needs.

        Args:
            stage: ``fit``, ``validate``, ``test`` or ``predict``; default: all.
        """
        self.data.setup(stage)
        if "train" in self.data.parts:
            part = self.data.parts["train"]
            targets = part.images.targets[part.positions]
            self.members = [(targets == c).nonzero().flatten() for c in range(self.num_classes)]
            if empty := [c for c, members in enumerate(self.members) if len(members) == 0]:
                raise InputError(f"data: no training image of class {', '.join(map(str, empty))}")

    def images_of(self, label: int) -> Tensor:
        """All training images of a class, normalised, ``(N, C, H, W)``.

        Args:
            label: The class.
        """
        part = self.data.parts["train"]
        positions = part.positions[self.members[label]]
        x = part.images.take(positions, 0, False)
        targets = part.images.targets[positions]
        return self.data.prepared(RawBatch(x, targets, positions, epoch=0, number=0, training=False))

    def train_dataloader(self) -> ResumableLoader:
        """Batches of every class, or of this process's classes."""
        ranks = self.trainer.distributed_sampler_kwargs if self.trainer is not None else None
        sampler = ClassSampler(self.members, self.per_class, seed=self.seed, **(ranks or {}))
        return ResumableLoader(self.data.parts["train"], sampler, self.data.num_workers, trainer=self.trainer)

    def on_after_batch_transfer(self, batch: RawBatch, dataloader_idx: int = 0) -> tuple[Tensor, Tensor]:
        """Normalise a batch, on the device.

        Args:
            batch: What the loader gave.
            dataloader_idx: Of no importance here.
        """
        return self.data.prepared(batch), batch.target


class ClassSampler(GlobalBatchSampler):
    """Equally many samples of each class a batch, class by class.

    Args:
        members: Samples of each class, as positions in the part of the data to sample from.
        per_class: Samples of each class a batch.
        num_replicas: How many processes share the classes.
        rank: Which of them this is.
        seed: Of the order within each class.

    Raises:
        InputError: When there are fewer classes than processes.

    Example:
        >>> members = [torch.arange(0, 4), torch.arange(4, 6)]
        >>> [batch.samples for batch in ClassSampler(members, per_class=2)]
        [[0, 2, 5, 4]]
        >>> [batch.samples for batch in ClassSampler(members, per_class=2, num_replicas=2, rank=1)]
        [[5, 4]]
    """

    def __init__(
        self, members: list[Tensor], per_class: int, num_replicas: int = 1, rank: int = 0, seed: int = 0
    ) -> None:
        if len(members) < num_replicas:
            raise InputError(f"devices: {num_replicas} processes cannot share {len(members)} classes")
        super().__init__(sum(map(len, members)), per_class * len(members), seed=seed)
        self.members = members
        self.per_class = per_class
        self.classes = range(rank, len(members), num_replicas)

    def __len__(self) -> int:
        return max(1, self.size // self.global_batch)

    def __iter__(self) -> Iterator[BatchKey]:
        orders = {}
        for c in self.classes:
            # every class has an order of its own: its number stands where others have the epoch's
            order = permutation(self.seed * len(self.members) + c, self.epoch, Draw.SHUFFLE, len(self.members[c]))
            orders[c] = self.members[c][order]
        for number in range(self.start, len(self)):
            places = torch.arange(number * self.per_class, (number + 1) * self.per_class)
            yield BatchKey(
                torch.cat([order[places % len(order)] for order in orders.values()]).tolist(), self.epoch, number
            )
