"""Images of which an average over steps is kept."""

from typing import Literal

import torch
from torch import Tensor

from lit_distill.data.class_batches import ClassBatches
from lit_distill.dataset.step import Labelled
from lit_distill.dataset.synthetic.pixels import Pixels
from lit_distill.errors import InputError


class AveragedPixels(Pixels):
    r"""Images whose every pixel is learned; what is kept is their exponential moving average, as in FTD.

    Du et al., Minimizing the Accumulated Trajectory Error to Improve Dataset Distillation, CVPR 2023,
    https://arxiv.org/abs/2211.11004

    .. math:: \bar x \leftarrow d \, \bar x + (1 - d) \, x

    Args:
        images_per_class: How many images of each class are stored.
        init: Begin with random ``real`` images of each class, or with normal ``noise``.
        clip: Whether pixels that leave what a picture can hold are brought back after each step.
        decay: :math:`d`; 0.999 or 0.9999 in the published runs of thousands of steps.

    Raises:
        InputError: When ``images_per_class`` is below 1 or ``decay`` outside [0, 1).

    Code: ``AngusDujw/FTD-distillation:distill/distill_FTD.py``
    """

    average: Tensor

    def __init__(
        self,
        images_per_class: int = 1,
        init: Literal["real", "noise"] = "real",
        clip: bool = False,
        decay: float = 0.999,
    ) -> None:
        super().__init__(images_per_class, init, clip)
        if not 0 <= decay < 1:
            raise InputError(f"decay must be in [0, 1), not {decay}")
        self.decay = decay

    def build(self, num_classes: int, input_shape: tuple[int, int, int]) -> None:
        """Make the parameter ``images`` and the buffer ``average``, both ``(classes, images_per_class, C, H, W)``."""
        super().build(num_classes, input_shape)
        self.register_buffer("average", self.images.detach().clone())

    @torch.no_grad()
    def start(self, data: ClassBatches, generator: torch.Generator) -> None:
        """Fill the images; the average begins with them."""
        super().start(data, generator)
        self.average.copy_(self.images)

    @torch.no_grad()
    def project(self) -> None:
        """Clip the pixels, and let the average follow."""
        super().project()
        self.average.lerp_(self.images, 1 - self.decay)

    def kept(self) -> Labelled:
        """The averages of all images."""
        return super().kept()._replace(images=self.average)
