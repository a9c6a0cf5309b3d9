"""Several small images in the place of one (IDC)."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from lit_distill.data.class_batches import ClassBatches
from lit_distill.dataset.step import Labelled
from lit_distill.dataset.synthetic.base import enough
from lit_distill.dataset.synthetic.patches import mosaics
from lit_distill.dataset.synthetic.pixels import Pixels
from lit_distill.errors import InputError


def formed(images: Tensor, factor: int, fill: Tensor) -> Tensor:
    """Cut images into ``factor**2`` parts and stretch each to a whole image.

    Part k of image i, row by row, is image ``k * n + i``. Where a side is no multiple of ``factor``, the bottom and
    the right are padded.

    Args:
        images: ``(K, n, C, H, W)``.
        factor: Parts a side.
        fill: What to pad with, ``(C, 1, 1)``.

    Returns:
        ``(K, n * factor**2, C, H, W)``.
    """
    size = images.shape[-2], images.shape[-1]
    h, w = (math.ceil(side / factor) for side in size)
    beyond = (0, factor * w - size[1], 0, factor * h - size[0])
    # pads with a colour: nn.functional.pad knows one number for all channels
    x = nn.functional.pad(images - fill, beyond) + fill if any(beyond) else images
    places = [(i * h, j * w) for i in range(factor) for j in range(factor)]
    parts = torch.cat([x[..., top : top + h, left : left + w] for top, left in places], 1)
    whole = nn.functional.interpolate(parts.flatten(0, 1), size=size, mode="bilinear")
    return whole.unflatten(0, parts.shape[:2])


def formed_within(images: Tensor, factor: int, limit: int, fill: Tensor) -> Tensor:
    """Cut the first images into ``factor**2`` parts, the next into fewer, and leave the last whole, within a limit.

    So many are cut that a place remains for each of the others, whole.

    Args:
        images: ``(K, n, C, H, W)``, n not above ``limit``.
        factor: Parts a side, at most.
        limit: Images of each class.
        fill: What to pad with, ``(C, 1, 1)``.
    """
    rest = images
    made: list[Tensor] = []
    for f in range(factor, 0, -1):
        # an image in parts takes the places of f**2, and each that is left needs one
        free = limit - sum(part.shape[1] for part in made) - rest.shape[1]
        n = rest.shape[1] if f == 1 else min(max(free, 0) // f**2, rest.shape[1])
        if n:
            made.append(formed(rest[:, :n], f, fill))
            rest = rest[:, n:]
    return torch.cat(made, 1)


class MultiFormation(Pixels):
    r"""Images whose every pixel is learned, each of which holds several smaller ones.

    Paper: Kim et al., Dataset Condensation via Efficient Synthetic-Data Parameterization (IDC), ICML 2022,
    https://arxiv.org/abs/2205.14959, section 4.1

    For the storage of one image networks get ``factor**2``: its parts, each stretched to the size of the whole.

    Args:
        images_per_class: How many are stored of each class.
        factor: Parts a side; the authors take 2 for images of 32 pixels and 3 for larger ones.
        init: Begin with ``mix``, in the place of each part a real image that was shrunk; with whole ``real`` images; or
            with normal ``noise``.
        smaller: Whether images are also cut into fewer parts: by 1, 2, ... and ``factor``.
        limit: The most images of a class that are made; those stored ones that would make more are cut into fewer
            parts. Default: none.
        clip: Whether pixels stay what a picture can hold: those that leave [0, 1], before normalisation, are brought
            back after each step. The authors do so when they take a new network.

    Raises:
        InputError: When ``factor`` is below 1 or above the side of an image, ``limit`` is below ``images_per_class`` or
            comes with ``smaller``, or a class has fewer images than there are parts.

    Code: ``snu-mllab/Efficient-Dataset-Condensation:condense.py`` (Synthesizer; ``decode_type`` single, multi with
    ``smaller``, bound with ``limit``)
    """

    def __init__(
        self,
        images_per_class: int = 1,
        factor: int = 2,
        init: Literal["mix", "real", "noise"] = "mix",
        smaller: bool = False,
        limit: int | None = None,
        clip: bool = True,
    ) -> None:
        super().__init__(images_per_class, "noise" if init == "noise" else "real", clip)
        if factor < 1:
            raise InputError(f"factor must be at least 1, not {factor}")
        if limit is not None and limit < images_per_class:
            raise InputError(f"limit must be at least images_per_class, {images_per_class}, not {limit}")
        if limit is not None and smaller:
            raise InputError("limit goes without smaller: it says itself which images are cut into fewer parts")
        self.factor = factor
        self.mix = init == "mix"
        self.smaller = smaller
        self.limit = limit

    def build(self, num_classes: int, input_shape: tuple[int, int, int]) -> None:
        """Make one parameter, ``images`` ``(classes, images_per_class, C, H, W)``, in normalised pixels."""
        if self.factor > min(input_shape[1:]):
            raise InputError(f"factor must be at most the side of an image, {min(input_shape[1:])}, not {self.factor}")
        super().build(num_classes, input_shape)

    @torch.no_grad()
    def start(self, data: ClassBatches, generator: torch.Generator) -> None:
        """Fill the images.

        Raises:
            InputError: When a class has fewer real images than are wanted.
        """
        super().start(data, generator)
        if not self.mix:
            return
        tiles, size = self.images_per_class * self.factor**2, (self.images.shape[-2], self.images.shape[-1])
        enough(data, tiles)
        for c in range(self.num_classes):
            real = data.images_of(c)
            chosen = real[torch.randperm(len(real), generator=generator)[:tiles]]
            self.images[c] = mosaics(chosen, self.factor, size)

    def decode(self, classes: Tensor) -> Labelled:
        """What the images of some classes hold."""
        classes = classes.to(self.images.device)
        stored, fill = self.images[classes], (self.lowest + self.highest) / 2
        if self.limit is not None:
            images = formed_within(stored, self.factor, self.limit, fill)
        else:
            factors = range(1, self.factor + 1) if self.smaller else [self.factor]
            images = torch.cat([formed(stored, f, fill) for f in factors], 1)
        return Labelled(images, classes[:, None].expand(-1, images.shape[1]))
