"""Images with soft labels that are learned as logits."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from lit_distill.data.class_batches import ClassBatches
from lit_distill.dataset.step import Labelled
from lit_distill.dataset.synthetic.pixels import Pixels
from lit_distill.errors import InputError


class LearnedLogits(Pixels):
    """Images whose every pixel is learned, and logits of their labels, which are learned at a rate of their own.

    Guo et al., Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching, ICLR 2024,
    https://arxiv.org/abs/2310.05773. A softmax makes probabilities of the logits, here and where networks are trained
    on the set. :class:`DATM` starts with those of its experts.

    Args:
        images_per_class: How many images of each class are stored.
        init: Begin with random ``real`` images of each class, or with normal ``noise``.
        clip: Whether pixels that leave what a picture can hold are brought back after each step.
        label_lr: Learning rate of the logits; 2 to 10 in the authors' configurations.
        label_momentum: Of the logits, for optimizers that have it.

    Raises:
        InputError: When ``images_per_class`` is below 1 or ``label_lr`` negative.
    """

    soft: Literal["logits"] = "logits"

    def __init__(
        self,
        images_per_class: int = 1,
        init: Literal["real", "noise"] = "real",
        clip: bool = False,
        label_lr: float = 5.0,
        label_momentum: float = 0.9,
    ) -> None:
        super().__init__(images_per_class, init, clip)
        if not (label_lr >= 0 and 0 <= label_momentum < 1):
            raise InputError(
                f"label_lr must not be negative and label_momentum in [0, 1), not {label_lr} and {label_momentum}"
            )
        self.label_lr = label_lr
        self.label_momentum = label_momentum

    def build(self, num_classes: int, input_shape: tuple[int, int, int]) -> None:
        """Make the parameters ``images`` and ``logits`` ``(classes, images_per_class, classes)``."""
        super().build(num_classes, input_shape)
        self.logits = nn.Parameter(torch.zeros(num_classes, self.images_per_class, num_classes))

    @torch.no_grad()
    def start(self, data: ClassBatches, generator: torch.Generator) -> None:
        """Fill the images, and be as sure of their classes as a network that is right nine times of ten."""
        super().start(data, generator)
        odds = 9.0 * (self.num_classes - 1)
        self.logits.copy_(torch.eye(self.num_classes)[:, None].expand_as(self.logits) * torch.tensor(odds).log())

    def decode(self, classes: Tensor) -> Labelled:
        """The images of some classes, and their logits."""
        classes = classes.to(self.images.device)
        return Labelled(self.images[classes], self.logits[classes])

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Images, and logits with their learning rate."""
        return [
            {"params": [self.images]},
            {"params": [self.logits], "lr": self.label_lr, "momentum": self.label_momentum},
        ]
