"""What data modules for segmentation and detection share."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.accelerators import CUDAAccelerator
from torch import Tensor
from torch.utils.data import Dataset

from lit_distill.data.base import at_least
from lit_distill.data.loader import ResumableLoader
from lit_distill.data.sampler import BatchKey, GlobalBatchSampler, SequentialBatchSampler

#: The class of every pixel, int64 ``(B, H, W)``; or for every image its ``boxes``, float32 ``(n, 4)`` as left, top,
#: right and bottom in pixels, and their ``labels``, int64 ``(n,)``.
Target = Tensor | list[dict[str, Tensor]]


class DenseBatch(NamedTuple):
    """A batch on its way from the loader to ``DenseData.on_after_batch_transfer``.

    Attributes:
        x: Images, uint8 ``(B, 3, H, W)``.
        target: What is in them.
    """

    x: Tensor
    target: Target


class DenseImages(ABC):
    """A set of images and what is in them."""

    @abstractmethod
    def __len__(self) -> int:
        """How many images there are."""

    @abstractmethod
    def take(self, positions: list[int]) -> DenseBatch:
        """The images at these positions, and what is in them.

        Args:
            positions: Which images.
        """


@dataclass(frozen=True, eq=False)
class DensePart(Dataset[DenseBatch]):
    """A set that is served a whole batch at a time.

    Attributes:
        images: The set.
    """

    images: DenseImages

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: BatchKey) -> DenseBatch:
        return self.images.take(key.samples)


class DenseData(LightningDataModule, ABC):
    """Images in which pixels or objects have classes.

    Batches are ``(x, target)``: images, float ``(B, 3, H, W)``, and what is in them. Shuffling depends on ``seed`` and
    the epoch alone: not on the number of processes or workers, nor on whether the run was interrupted.

    Attributes:
        num_classes: The number of classes, the background (class 0) among them.
        input_shape: Channels, height and width of an image.
        mean: What is subtracted from each channel, of pixels in [0, 1].
        std: What each channel is divided by.

    Args:
        batch_size: Images a step, of each process.
        seed: Of shuffling.
        num_workers: Processes that load batches; 0 loads in the main process.

    Raises:
        InputError: When an argument is outside its range.
    """

    num_classes: int
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __init__(self, batch_size: int = 16, seed: int = 0, num_workers: int = 0) -> None:
        super().__init__()
        self.batch_size = at_least(1, batch_size, "batch_size")
        self.seed = seed
        self.num_workers = at_least(0, num_workers, "num_workers")
        self.parts: dict[str, DensePart] = {}

    @abstractmethod
    def read(self, part: Literal["train", "val", "test"]) -> DenseImages:
        """One of the three sets."""

    def setup(self, stage: str | None = None) -> None:
        """Read the sets that a stage needs.

        Args:
            stage: ``fit``, ``validate``, ``test`` or ``predict``; default: all.
        """
        wanted: list[Literal["train", "val", "test"]] = ["test"] if stage in ("test", "predict") else ["train", "val"]
        if stage is None:
            wanted.append("test")
        for part in wanted:
            if part not in self.parts:
                self.parts[part] = DensePart(self.read(part))

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled batches of the training images."""
        overfitting = self.trainer is not None and self.trainer.overfit_batches > 0  # type: ignore[attr-defined]
        return self.loader("train", SequentialBatchSampler if overfitting else GlobalBatchSampler)

    def val_dataloader(self) -> ResumableLoader:
        """The validation images in order."""
        return self.loader("val", SequentialBatchSampler)

    def test_dataloader(self) -> ResumableLoader:
        """The test images in order."""
        return self.loader("test", SequentialBatchSampler)

    def predict_dataloader(self) -> ResumableLoader:
        """The test images in order."""
        return self.test_dataloader()

    def loader(self, part: str, sampler: type[GlobalBatchSampler]) -> ResumableLoader:
        """This process's loader of a set.

        Args:
            part: Which set.
            sampler: In which order.
        """
        processes: dict[str, Any] = {}
        pin_memory = False
        if self.trainer is not None:
            processes = self.trainer.distributed_sampler_kwargs or {}
            pin_memory = isinstance(self.trainer.accelerator, CUDAAccelerator)
        images = self.parts[part]
        batches = sampler(len(images), self.batch_size, seed=self.seed, **processes)
        return ResumableLoader(images, batches, self.num_workers, pin_memory, self.trainer)

    def on_after_batch_transfer(self, batch: DenseBatch, dataloader_idx: int = 0) -> tuple[Tensor, Target]:
        """Make the batch that a module sees, on the device: normalise the images.

        Args:
            batch: What a loader of this data module gave.
            dataloader_idx: Of no importance here.
        """
        mean, std = (torch.tensor(value, device=batch.x.device)[:, None, None] for value in (self.mean, self.std))
        x = (batch.x.float() / 255 - mean) / std
        if self.trainer is not None:
            # the images alone: half precision could not tell one pixel from the next in a box
            x = self.trainer.precision_plugin.convert_input(x)
        return x, batch.target
