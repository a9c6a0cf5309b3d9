"""Sets of images, and the parts of them that loaders read."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor
from torch.utils.data import Dataset

from lit_distill.data.sampler import BatchKey


class RawBatch(NamedTuple):
    """A batch on its way from the loader to ``ImageData.on_after_batch_transfer``.

    Attributes:
        x: Images ``(B, C, H, W)``; twice as many where the set makes strong views, which come after all weak ones.
        target: Their classes, int64 ``(B,)``.
        position: Their positions in the training set, int64 ``(B,)``; none for samples that are not from there.
        epoch: The epoch; where images have so many views, the first one that showed these.
        number: The number of the batch within the epoch.
        training: Whether a network is to be trained on it.
    """

    x: Tensor
    target: Tensor
    position: Tensor | None
    epoch: int
    number: int
    training: bool


class Images(ABC):
    """A set of labelled images.

    Attributes:
        targets: Class of every image, int64 ``(N,)``.
    """

    targets: Tensor

    @abstractmethod
    def take(self, positions: Tensor, epoch: int, training: bool) -> Tensor:
        """The images at these positions, ``(B, C, H, W)``; where the set makes strong views, then those of all.

        Args:
            positions: Which images, int64 ``(B,)``.
            epoch: The epoch, for sets whose images change from epoch to epoch.
            training: Whether a network is to be trained on them.
        """


@dataclass(frozen=True, eq=False)
class Part(Dataset[RawBatch]):
    """Some samples of a set, served a whole batch at a time.

    Attributes:
        images: The set.
        positions: Which of its samples, int64 ``(N,)``.
        of_training_set: Whether the set is the training set, so that batches name their positions in it.
        training: Whether networks are to be trained on the batches.
        views: After how many epochs images are augmented as before. Default: never.
    """

    images: Images
    positions: Tensor
    of_training_set: bool
    training: bool = False
    views: int | None = None

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, key: BatchKey) -> RawBatch:
        positions = self.positions[key.samples]
        epoch = key.epoch if self.views is None else key.epoch % self.views
        return RawBatch(
            x=self.images.take(positions, epoch, self.training),
            target=self.images.targets[positions],
            position=positions if self.of_training_set else None,
            epoch=epoch,
            number=key.number,
            training=self.training,
        )
