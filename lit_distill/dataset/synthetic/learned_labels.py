"""Images with labels that are learned as well."""

import math

import torch
from torch import Tensor, nn

from lit_distill.data.class_batches import ClassBatches
from lit_distill.dataset.step import Labelled
from lit_distill.dataset.synthetic.pixels import Pixels
from lit_distill.dataset.targets import centred


class LearnedLabels(Pixels):
    r"""Images whose every pixel is learned, and labels that are learned for a regression.

    Zhou, Nezhadarya and Ba, Dataset Distillation using Neural Feature Regression, NeurIPS 2022,
    https://arxiv.org/abs/2206.00719. Labels begin as

    .. math:: \frac{e_c - 1/C}{\sqrt{C / 10}}

    for :math:`C` classes and the unit vector :math:`e_c`. They are no logits: networks learn them by
    regression.
    """

    soft = "values"

    soft = "values"

    def build(self, num_classes: int, input_shape: tuple[int, int, int]) -> None:
        """Make the parameters ``images`` ``(classes, images_per_class, C, H, W)`` and ``labels``."""
        super().build(num_classes, input_shape)
        self.labels = nn.Parameter(torch.zeros(num_classes, self.images_per_class, num_classes))

    @torch.no_grad()
    def start(self, data: ClassBatches, generator: torch.Generator) -> None:
        """Fill the images, and label them with their classes."""
        super().start(data, generator)
        fixed = centred(torch.arange(self.num_classes), self.num_classes)
        self.labels.copy_(fixed[:, None].expand_as(self.labels) / math.sqrt(self.num_classes / 10))

    def decode(self, classes: Tensor) -> Labelled:
        """The images of some classes, and their learned labels."""
        classes = classes.to(self.images.device)
        return Labelled(self.images[classes], self.labels[classes])
