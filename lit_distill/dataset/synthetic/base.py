"""What every synthetic set is."""

from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lit_distill.data.class_batches import ClassBatches
from lit_distill.dataset.step import Labelled
from lit_distill.errors import InputError


class SyntheticSet(nn.Module, ABC):
    """A small set of images that is being distilled: what is learned, and what networks get to see of it.

    It knows its classes when the run begins: :meth:`build` makes the parameters, :meth:`start` gives them their first
    values. A checkpoint that is resumed replaces these.

    Attributes:
        soft: What labels with fractions are: ``logits``, or ``values`` that networks learn by regression.

    Args:
        images_per_class: How many images of each class are stored.

    Raises:
        InputError: When ``images_per_class`` is below 1.
    """

    num_classes: int
    soft: Literal["logits", "values"] = "logits"

    def __init__(self, images_per_class: int = 1) -> None:
        super().__init__()
        if images_per_class < 1:
            raise InputError(f"images_per_class must be at least 1, not {images_per_class}")
        self.images_per_class = images_per_class

    @abstractmethod
    def build(self, num_classes: int, input_shape: tuple[int, int, int]) -> None:
        """Make the parameters.

        Args:
            num_classes: The number of classes.
            input_shape: Channels, height and width of an image.
        """

    @abstractmethod
    def start(self, data: ClassBatches, generator: torch.Generator) -> None:
        """Give the parameters their first values.

        Args:
            data: The real images.
            generator: For what is random.
        """

    @abstractmethod
    def decode(self, classes: Tensor) -> Labelled:
        """What networks get to see of some classes, differentiable.

        Args:
            classes: Which classes, int64 ``(K,)``.
        """

    def whole(self) -> Labelled:
        """What networks get to see of all classes."""
        return self.decode(torch.arange(self.num_classes))

    def project(self) -> None:
        """Bring the parameters back to where they may be; called after each step."""

    def kept(self) -> Labelled:
        """What is kept of all classes when the run ends: what networks got to see last."""
        return self.whole()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The learned parameters as an optimizer takes them; those with a learning rate of their own say it."""
        learned = [p for p in self.parameters() if p.requires_grad]
        return [{"params": learned}] if learned else []


def enough(data: ClassBatches, images_per_class: int) -> None:
    """Refuse to start from more real images than a class has.

    Args:
        data: The real images.
        images_per_class: How many of each class are wanted.

    Raises:
        InputError: Naming the smallest class.
    """
    smallest = min(range(data.num_classes), key=lambda c: len(data.members[c]))
    if len(data.members[smallest]) < images_per_class:
        raise InputError(
            f"images_per_class must be at most {len(data.members[smallest])}, the images of class {smallest}, not "
            f"{images_per_class}"
        )
