"""Images as they are, pixel by pixel."""

from typing import Literal

import torch
from torch import Tensor, nn

from lit_distill.data.class_batches import ClassBatches
from lit_distill.dataset.step import Labelled
from lit_distill.dataset.synthetic.base import SyntheticSet, enough


class Pixels(SyntheticSet):
    """Images whose every pixel is learned, with fixed labels.

    Args:
        init: Begin with random ``real`` images of each class, or with normal ``noise``.
        clip: Whether pixels stay what a picture can hold: those that leave [0, 1], before normalisation, are brought
            back after each step.
    """

    lowest: Tensor
    highest: Tensor

    def __init__(self, images_per_class: int = 1, init: Literal["real", "noise"] = "real", clip: bool = False) -> None:
        super().__init__(images_per_class)
        self.init = init
        self.clip = clip

    def build(self, num_classes: int, input_shape: tuple[int, int, int]) -> None:
        """Make one parameter, ``images`` ``(classes, images_per_class, C, H, W)``, in normalised pixels."""
        self.num_classes = num_classes
        self.images = nn.Parameter(torch.zeros(num_classes, self.images_per_class, *input_shape))

    @torch.no_grad()
    def start(self, data: ClassBatches, generator: torch.Generator) -> None:
        """Fill the images with real ones or with noise.

        Raises:
            InputError: When a class has fewer real images than are wanted.
        """
        mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (data.mean, data.std))
        self.register_buffer("lowest", -mean / std, persistent=False)
        self.register_buffer("highest", (1 - mean) / std, persistent=False)
        if self.init == "noise":
            self.images.copy_(torch.randn(self.images.shape, generator=generator))
            return
        enough(data, self.images_per_class)
        for c in range(self.num_classes):
            real = data.images_of(c)
            self.images[c] = real[torch.randperm(len(real), generator=generator)[: self.images_per_class]]

    @torch.no_grad()
    def project(self) -> None:
        """Clip the pixels."""
        if self.clip:
            self.images.clamp_(self.lowest, self.highest)

    def decode(self, classes: Tensor) -> Labelled:
        """The images of some classes."""
        images = self.images[classes.to(self.images.device)]
        return Labelled(images, classes.to(images.device)[:, None].expand(-1, self.images_per_class))
