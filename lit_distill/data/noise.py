"""Images of nothing, for students that are to learn from a teacher alone."""

from typing import Any, Literal

import torch

from lit_distill.data.base import at_least
from lit_distill.data.tensor_data import TensorData, TensorImages


class NoiseImages(TensorData):
    """Trains on images of uniform noise, and validates and tests on real ones.

    Every pixel is an independent uniform byte; the images are the same in every epoch, and normalised as the real ones
    are. Validation takes the whole training set of the real images, of which no network sees any in training.
    Training labels are all 0 and mean nothing: use no term that asks for them.

    Args:
        images: The real images: a set that lies in memory, such as ``Digits``. Its own settings do not matter.
        samples: How many images of noise there are.
        noise_seed: Draws them.

    Raises:
        InputError: When an argument is outside its range.
    """

    def __init__(self, images: TensorData, samples: int = 10_000, noise_seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.images = images
        self.samples = at_least(1, samples, "samples")
        self.noise_seed = noise_seed
        self.num_classes, self.input_shape = images.num_classes, images.input_shape
        self.mean, self.std = images.mean, images.std
        self.padding, self.flip = images.padding, images.flip

    def prepare_data(self) -> None:
        """Let the real images be downloaded, if theirs are."""
        self.images.prepare_data()

    def read(self, part: Literal["train", "test"]) -> TensorImages:
        """The noise, or the real test set."""
        if part == "test":
            return self.images.read("test")
        generator = torch.Generator().manual_seed(self.noise_seed)
        noise = torch.randint(0, 256, (self.samples, *self.input_shape), generator=generator, dtype=torch.uint8)
        return TensorImages(noise, torch.zeros(self.samples, dtype=torch.long))

    def read_val(self) -> TensorImages:
        """The real training set."""
        return self.images.read("train")
