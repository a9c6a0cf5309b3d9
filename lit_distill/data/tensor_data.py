"""Small sets: all images in memory, in one tensor."""

from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor

from lit_distill.data.augment import random_crop, random_flip
from lit_distill.data.base import ImageData
from lit_distill.data.counter_rng import Draw, uniform
from lit_distill.data.parts import Images, RawBatch
from lit_distill.data.strong import strongly_augmented
from lit_distill.errors import InputError


class TensorImages(Images):
    """Images in one tensor.

    Args:
        x: Images, uint8 ``(N, C, H, W)``.
        targets: Their classes, int64 ``(N,)``.
    """

    def __init__(self, x: Tensor, targets: Tensor) -> None:
        self.x = x
        self.targets = targets

    def take(self, positions: Tensor, epoch: int, training: bool) -> Tensor:
        """The images at these positions, uint8 ``(B, C, H, W)``."""
        return self.x[positions]


def labelled(x: Tensor, targets: Tensor, num_classes: int, source: object) -> TensorImages:
    """Images and their labels, after a look at whether they belong together.

    Args:
        x: Images, uint8 ``(N, C, H, W)``.
        targets: Their classes, int64 ``(N,)``.
        num_classes: How many classes there are.
        source: Where the labels come from, for the message.

    Raises:
        InputError: When there are no images, another number of labels, or labels of no class.
    """
    if len(x) == 0 or len(x) != len(targets):
        raise InputError(f"root: {len(x)} images and {len(targets)} labels in {source}; there must be one for each")
    if not 0 <= int(targets.min()) <= int(targets.max()) < num_classes:
        raise InputError(
            f"root: labels from {int(targets.min())} to {int(targets.max())} in {source}; "
            f"accepted are 0 to {num_classes - 1}"
        )
    return TensorImages(x, targets)


class TensorData(ImageData):
    """A set small enough for memory; subclasses say where its bytes come from.

    The loader cuts uint8 batches out of one tensor; conversion, normalisation and augmentation (a random crop of
    the padded image, a random mirror image) are done a whole batch at a time on the device.

    So are strong views: images as they are in the set, turned by up to 10 degrees, sheared and zoomed by up to 0.1
    and shifted by up to 0.15 of their sides, brightness and contrast multiplied by 0.7 to 1.3, which is what
    RandAugment does at magnitude 10 of 30; and a square of up to half the side filled with the mean. Half of them
    are mirrored in sets that augmentation mirrors.

    Attributes:
        padding: Pixels that augmentation adds on each side before it crops.
        flip: Whether augmentation mirrors left and right.
    """

    padding: int
    flip: bool

    @abstractmethod
    def read(self, part: Literal["train", "test"]) -> TensorImages:
        """The full training set or the test set."""

    def read_train(self) -> TensorImages:
        """The full training set."""
        return self.read("train")

    def read_test(self) -> TensorImages:
        """The test set."""
        return self.read("test")

    def prepared(self, batch: RawBatch) -> Tensor:
        """The images of a batch as networks take them, float32; with strong views, those follow after all others."""
        x, position = batch.x, batch.position
        mean, std = (255 * torch.tensor(value, device=x.device)[:, None, None] for value in (self.mean, self.std))
        if batch.training and position is not None:

            def draw(purpose: Draw) -> Tensor:
                return uniform(self.view_seed, batch.epoch, purpose, position)

            if self.augment:
                x = random_crop(x, self.padding, draw(Draw.CROP_ROW), draw(Draw.CROP_COLUMN))
                if self.flip:
                    x = random_flip(x, draw(Draw.FLIP))
            if self.strong_view:
                x = torch.cat([x.float(), strongly_augmented(batch.x, mean, self.flip, draw)])
        return x.float().sub_(mean).div_(std)
