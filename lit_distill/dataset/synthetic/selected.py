"""Real images, chosen and left as they are."""

from typing import get_args

import torch
from torch import Tensor, nn

from lit_distill.core.frozen import Frozen
from lit_distill.data.class_batches import ClassBatches
from lit_distill.dataset.coreset import Selection, selected
from lit_distill.dataset.embedding import embed
from lit_distill.dataset.step import Labelled
from lit_distill.dataset.synthetic.base import SyntheticSet, enough
from lit_distill.errors import InputError

BATCH = 512


class Selected(SyntheticSet):
    """Real images of each class, chosen once and never changed: what every distilled set is compared with.

    ``DatasetDistiller`` with this set alone writes an artifact with nothing to train.

    - ``random``: any.
    - ``herding``: whose mean follows the mean of the class (Welling, ICML 2009, https://arxiv.org/abs/2006.05929).
    - ``k_center``: near which all others are (Sener and Savarese, ICLR 2018, https://arxiv.org/abs/1708.00489).

    Args:
        select: Which way to choose.
        features: A trained network; what its classifier sees is what ``herding`` and ``k_center`` compare, as
            published. In YAML e.g. ``lit_distill.models.restored`` with a recipe. Default: the pixels.

    Raises:
        InputError: When there is no such way, or a class has fewer images than are wanted.
    """

    images: Tensor

    def __init__(
        self, images_per_class: int = 1, select: Selection = "random", features: nn.Module | None = None
    ) -> None:
        super().__init__(images_per_class)
        if select not in get_args(Selection):
            raise InputError(f"select: {select!r} given to Selected; accepted are {', '.join(get_args(Selection))}")
        self.select = select
        self.features = None if features is None else Frozen(features)

    def build(self, num_classes: int, input_shape: tuple[int, int, int]) -> None:
        """Make one buffer, ``images`` ``(classes, images_per_class, C, H, W)``, in normalised pixels."""
        self.num_classes = num_classes
        self.register_buffer("images", torch.zeros(num_classes, self.images_per_class, *input_shape))

    @torch.no_grad()
    def start(self, data: ClassBatches, generator: torch.Generator) -> None:
        """Choose.

        Raises:
            InputError: When a class has fewer real images than are wanted.
        """
        enough(data, self.images_per_class)
        for c in range(self.num_classes):
            real = data.images_of(c)
            self.images[c] = real[selected(self._seen(real), self.images_per_class, self.select, generator).cpu()]

    def decode(self, classes: Tensor) -> Labelled:
        """The images of some classes."""
        images = self.images[classes.to(self.images.device)]
        return Labelled(images, classes.to(images.device)[:, None].expand(-1, self.images_per_class))

    def _seen(self, real: Tensor) -> Tensor:
        if self.features is None or self.select == "random":
            return real.flatten(1)
        network = self.features.module
        device = next((p.device for p in network.parameters()), real.device)
        return torch.cat([embed(network, part.to(device)) for part in real.split(BATCH)])
