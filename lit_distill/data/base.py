"""What every data module of images shares: splits, loaders, and batches that do not depend on how they are made."""

import random
from abc import ABC, abstractmethod
from dataclasses import replace
from functools import partial

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.accelerators import CUDAAccelerator
from torch import Tensor

from lit_distill.data.counter_rng import Draw, key, uniform
from lit_distill.data.loader import ResumableLoader
from lit_distill.data.mix import Mix
from lit_distill.data.parts import Images, Part, RawBatch
from lit_distill.data.sampler import GlobalBatchSampler, SequentialBatchSampler
from lit_distill.data.splits import stratified_order
from lit_distill.data.subset import Subset
from lit_distill.errors import InputError


class ImageData(LightningDataModule, ABC):
    """Images with class labels.

    Batches are ``(x, target)``: normalised images, float ``(B, C, H, W)``, and classes, int64 ``(B,)``. While a
    ``Trainer`` fits, training images are augmented and mixed as the arguments say; mixed ones come with class
    probabilities, float ``(B, num_classes)``, as target. ``WithMixtures`` makes them several times as many.

    With ``strong_view``, batches to train on hold each image twice, ``(2 B, C, H, W)``: first all images as they
    would be without it, then a strongly augmented view of each in the same order; their classes too come twice.

    Shuffling and augmentation depend on ``seed``, the epoch and the sample alone: not on the number of processes
    or workers, nor on whether the run was interrupted.

    Attributes:
        num_classes: The number of classes.
        input_shape: Channels, height and width of an image.
        mean: Of each channel over the training set, with pixels in [0, 1].
        std: Standard deviation, likewise.

    Args:
        batch_size: Samples a step, of each process. With ``strong_view`` networks see twice as many images.
        val_fraction: Share of the training set that is held out for validation, with its class proportions; in
            (0, 0.5].
        split_seed: Draws the samples held out.
        seed: Of shuffling, augmentation and mixing.
        index: Whether batches of training and validation are ``(x, target, index)``, with each sample's position
            in the full training set, int64 ``(B,)``. The test set has no such positions.
        augment: Whether to augment training images.
        mix: Mixes training images and their labels. Not together with ``strong_view``.
        strong_view: Whether training batches hold a second, strongly augmented view of each image as well, with or
            without ``augment``. For losses that compare two views: ``MLLD``, ``CRLD``, ``PairedViews``.
        num_workers: Processes that load batches; 0 loads in the main process.
        limit: Train on at most this many samples, with the class proportions of all. Default: all.
        subset: Which of the training samples to train on: ``RandomSubset`` or ``ScoredSubset``; ``limit`` is of
            those. Samples held out for validation are not among them. Default: all.
        views: Show each training image in only so many augmented views, which are the same in every run: epoch e
            shows it as epoch e - ``views`` did, and ``split_seed`` draws them. For a teacher's answers that are stored.
            Default: a new view in every epoch, drawn from ``seed``.

    Raises:
        InputError: When an argument is outside its range, or ``strong_view`` is asked for together with ``mix``.
    """

    num_classes: int
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __init__(
        self,
        batch_size: int = 64,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        seed: int = 0,
        index: bool = False,
        augment: bool = False,
        mix: Mix | None = None,
        strong_view: bool = False,
        num_workers: int = 0,
        limit: int | None = None,
        subset: Subset | None = None,
        views: int | None = None,
    ) -> None:
        super().__init__()
        self.batch_size = at_least(1, batch_size, "batch_size")
        if not 0 < val_fraction <= 0.5:
            raise InputError(f"val_fraction: {val_fraction} is not in (0, 0.5]")
        self.val_fraction = val_fraction
        self.split_seed = split_seed
        self.seed = seed
        self.index = index
        self.augment = augment
        self.mix = mix
        if strong_view and mix is not None:
            raise InputError(f"strong_view: true does not go with mix ({type(mix).__name__}); leave one of them out")
        self.strong_view = strong_view
        self.num_workers = at_least(0, num_workers, "num_workers")
        self.limit = limit if limit is None else at_least(1, limit, "limit")
        self.views = views if views is None else at_least(1, views, "views")
        self.subset = subset
        self.parts: dict[str, Part] = {}

    @abstractmethod
    def read_train(self) -> Images:
        """The full training set."""

    @abstractmethod
    def read_test(self) -> Images:
        """The test set."""

    def read_val(self) -> Images | None:
        """A validation set of its own, for data that has one; none is held out from the training set then."""
        return None

    def prepared(self, batch: RawBatch) -> Tensor:
        """The images of a batch as networks take them: on their device, float, normalised, augmented.

        With ``strong_view``, those to train on are followed by a strong view of each.
        """
        return batch.x

    @property
    def view_seed(self) -> int:
        """The seed of augmentation."""
        return self.seed if self.views is None else self.split_seed

    def setup(self, stage: str | None = None) -> None:
        """Read the sets that a stage needs.

        Args:
            stage: ``fit``, ``validate``, ``test`` or ``predict``; default: all.
        """
        if stage in ("fit", "validate", None) and "train" not in self.parts:
            train = self.read_train()
            order = stratified_order(train.targets, self.split_seed)
            val, held_out = self.read_val(), 0
            if val is None:
                held_out = max(1, round(self.val_fraction * len(order)))
                self.parts["val"] = Part(train, order[:held_out].sort().values, of_training_set=True)
            else:
                self.parts["val"] = Part(val, torch.arange(len(val.targets)), of_training_set=False)
            rest = order[held_out:]
            if self.subset is not None:
                rest = self.subset(rest, train.targets)
            self.parts["train"] = Part(train, rest[: self.limit].sort().values, of_training_set=True)
        if stage in ("test", "predict", None) and "test" not in self.parts:
            test = self.read_test()
            self.parts["test"] = Part(test, torch.arange(len(test.targets)), of_training_set=False)

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled batches of the training samples; augmented and mixed where a trainer asks that is fitting."""
        fitting = self.trainer is not None and self.trainer.training
        overfitting = self.trainer is not None and self.trainer.overfit_batches > 0  # type: ignore[attr-defined]
        sampler = SequentialBatchSampler if overfitting else GlobalBatchSampler
        return self.loader(replace(self.parts["train"], training=fitting, views=self.views), sampler)

    def val_dataloader(self) -> ResumableLoader:
        """The validation samples in order."""
        return self.loader(self.parts["val"], SequentialBatchSampler)

    def test_dataloader(self) -> ResumableLoader:
        """The test samples in order."""
        return self.loader(self.parts["test"], SequentialBatchSampler)

    def predict_dataloader(self) -> ResumableLoader:
        """The test samples in order."""
        return self.test_dataloader()

    def loader(self, part: Part, sampler: type[GlobalBatchSampler]) -> ResumableLoader:
        """This process's loader of some samples.

        Args:
            part: Which samples.
            sampler: In which order.
        """
        trainer, processes, pin_memory = self.trainer, None, False
        if trainer is not None:
            # not world_size: under tensor parallelism several processes work on the same samples
            processes = trainer.distributed_sampler_kwargs
            pin_memory = isinstance(trainer.accelerator, CUDAAccelerator)
        batches = sampler(len(part), self.batch_size, seed=self.seed, **(processes or {}))
        return ResumableLoader(part, batches, self.num_workers, pin_memory, trainer)

    def on_after_batch_transfer(self, batch: RawBatch, dataloader_idx: int = 0) -> tuple[Tensor, ...]:
        """Make the batch that a module sees, on the device: normalise, augment and mix.

        Args:
            batch: What a loader of this data module gave.
            dataloader_idx: Of no importance here.
        """
        x, target, position = self.prepared(batch), batch.target, batch.position
        if self.strong_view and batch.training:
            target = target.repeat(2)
            position = None if position is None else position.repeat(2)
        if self.mix is not None and batch.training and position is not None:
            rng = random.Random(key(self.seed, batch.epoch, Draw.MIX, batch.number))
            draw = partial(uniform, self.seed, batch.epoch, index=position)
            x, target = self.mix(x, target, self.num_classes, rng, draw)
            position = position.repeat(len(x) // len(position))
        if self.trainer is not None:
            # Lightning converted the batch to the module's precision before it had floating-point numbers
            x, target = self.trainer.precision_plugin.convert_input((x, target))
        return (x, target, position) if self.index and position is not None else (x, target)


def at_least(least: int, value: int, name: str) -> int:
    """The value, if it is not too small.

    Raises:
        InputError: When it is; ``name`` is what the message calls it.
    """
    if value < least:
        raise InputError(f"{name}: {value} is below {least}")
    return value
