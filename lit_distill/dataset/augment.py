"""Differentiable Siamese augmentation (DSA)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lit_distill.errors import InputError

NUMBERS = 3  # uniform numbers that the neediest operation takes


@dataclass(frozen=True)
class Drawn:
    """One operation and its random numbers for each of ``K`` groups; fits images of any size.

    Attributes:
        operation: Places in the strategy, int64 ``(K,)``, on the CPU.
        numbers: Uniform in [0, 1), float32 ``(K, 3)``, on the CPU.
    """

    operation: Tensor
    numbers: Tensor

    def __len__(self) -> int:
        return len(self.operation)


class SiameseAugmentation:
    """One random operation for all images of a group, differentiable for the images.

    Paper: Zhao and Bilen, Dataset Condensation with Differentiable Siamese Augmentation, ICML 2021,
    https://arxiv.org/abs/2102.08259

    Real and synthetic images of a class go through the same operation with the same numbers, which :meth:`draw` takes
    from a generator. Operations work on normalised images and fill with 0, the mean colour:

    - ``color``: brightness, saturation and contrast, one after the other;
    - ``crop``: a shift by up to ``crop`` of each side;
    - ``cutout``: a box of ``cutout`` of each side becomes 0;
    - ``flip``: mirrors left and right, or does nothing;
    - ``scale``: both sides stretched or shrunk, each by itself;
    - ``rotate``: by up to ``rotate`` degrees.

    Images whose mirror image is of another class, such as digits, want a strategy without ``flip``.

    Args:
        strategy: Names of the operations with ``_`` between them; each draw takes one of them.
        brightness: Range of what is added to all pixels, centred at 0.
        saturation: Largest factor of a pixel's distance from its grey value; the least is 0. Grey images stay the same.
        contrast: Least factor of a pixel's distance from the image's mean; the largest is 1 more.
        crop: Largest shift, as a share of a side.
        cutout: Side of the box, as a share of the image's.
        flip: Probability of a mirror image.
        scale: Largest factor by which a side shrinks or is stretched.
        rotate: Largest angle in degrees.

    Raises:
        InputError: When the strategy names no operation or an unknown one, or a range is impossible.

    Traps: ``align_corners`` differs between ``VICO-UoE/DatasetCondensation`` and
    ``GeorgeCazenavette/mtt-distillation`` and makes no difference on square images; here it is false.

    Code: ``VICO-UoE/DatasetCondensation:utils.py`` (DiffAugment, ``aug_mode`` S)

    Example:
        >>> augment = SiameseAugmentation("color_crop_cutout_scale_rotate")
        >>> drawn = augment.draw([torch.Generator().manual_seed(c) for c in range(10)])
        >>> real, synthetic = torch.randn(10, 64, 1, 28, 28), torch.randn(10, 1, 1, 28, 28)
        >>> augment(real, drawn).shape, augment(synthetic, drawn).shape
        (torch.Size([10, 64, 1, 28, 28]), torch.Size([10, 1, 1, 28, 28]))
    """

    def __init__(
        self,
        strategy: str = "color_crop_cutout_flip_scale_rotate",
        brightness: float = 1.0,
        saturation: float = 2.0,
        contrast: float = 0.5,
        crop: float = 0.125,
        cutout: float = 0.5,
        flip: float = 0.5,
        scale: float = 1.2,
        rotate: float = 15.0,
    ) -> None:
        self.strategy = strategy
        self.brightness, self.saturation, self.contrast = brightness, saturation, contrast
        self.crop, self.cutout, self.flip, self.scale, self.rotate = crop, cutout, flip, scale, rotate
        names = strategy.split("_")
        if unknown := [name for name in names if name not in OPERATIONS]:
            accepted = ", ".join(OPERATIONS)
            raise InputError(f"strategy: {', '.join(map(repr, unknown))} is no operation; accepted are {accepted}")
        if scale < 1:
            raise InputError(f"scale must be at least 1, not {scale}")
        for name, share in (("crop", crop), ("cutout", cutout), ("flip", flip)):
            if not 0 <= share <= 1:
                raise InputError(f"{name} must be in [0, 1], not {share}")
        self._operations = [OPERATIONS[name] for name in names]

    def draw(self, generators: Sequence[torch.Generator]) -> Drawn:
        """One operation and its numbers for each group.

        Args:
            generators: One a group, on the CPU.
        """
        operations = [torch.randint(len(self._operations), (), generator=g) for g in generators]
        return Drawn(torch.stack(operations), torch.stack([torch.rand(NUMBERS, generator=g) for g in generators]))

    def __call__(self, images: Tensor, drawn: Drawn) -> Tensor:
        """Augment all images of a group alike.

        Args:
            images: ``(K, n, C, H, W)``, normalised.
            drawn: What was drawn for the ``K`` groups.

        Returns:
            Images of the same shape.

        Raises:
            InputError: When there are not as many groups as were drawn for.
        """
        if images.ndim != 5 or len(images) != len(drawn):
            raise InputError(f"images must be ({len(drawn)}, n, C, H, W), not {tuple(images.shape)}")
        chosen = drawn.operation.unique().tolist()
        numbers = drawn.numbers.to(images.device, images.dtype)
        if len(chosen) == 1:
            return self._operations[chosen[0]](self, images, numbers)
        places = [(drawn.operation == i).nonzero().flatten() for i in chosen]
        parts = []
        for i, on_cpu in zip(chosen, places, strict=True):
            place = on_cpu.to(images.device)
            parts.append(self._operations[i](self, images[place], numbers[place]))
        return torch.cat(parts)[torch.cat(places).argsort().to(images.device)]

    def each(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Augment every image in its own way.

        Args:
            x: Images ``(B, C, H, W)``, normalised.
            generator: For all of them, on the CPU.

        Returns:
            Images of the same shape.
        """
        operations = torch.randint(len(self._operations), (len(x),), generator=generator)
        drawn = Drawn(operations, torch.rand(len(x), NUMBERS, generator=generator))
        return self(x[:, None], drawn)[:, 0]


def brighter(x: Tensor, u: Tensor, brightness: float) -> Tensor:
    """Add ``(u - 0.5) * brightness`` to all pixels of a group.

    Args:
        x: Images ``(K, n, C, H, W)``.
        u: Uniform in [0, 1), ``(K,)``.
        brightness: Range of what is added.
    """
    return x + _wide(u - 0.5) * brightness


def saturated(x: Tensor, u: Tensor, saturation: float) -> Tensor:
    """Multiply each pixel's distance from the mean of its channels by ``u * saturation``.

    Args:
        x: Images ``(K, n, C, H, W)``.
        u: Uniform in [0, 1), ``(K,)``.
        saturation: Largest factor.
    """
    grey = x.mean(2, keepdim=True)
    return grey + (x - grey) * _wide(u * saturation)


def contrasted(x: Tensor, u: Tensor, contrast: float) -> Tensor:
    """Multiply each pixel's distance from the mean of its image by ``u + contrast``.

    Args:
        x: Images ``(K, n, C, H, W)``.
        u: Uniform in [0, 1), ``(K,)``.
        contrast: Least factor.
    """
    mean = x.mean((2, 3, 4), keepdim=True)
    return mean + (x - mean) * _wide(u + contrast)


def shifted(x: Tensor, row: Tensor, column: Tensor, most: tuple[int, int]) -> Tensor:
    """Take the pixel so many rows below and columns to the right; 0 where that is outside.

    Args:
        x: Images ``(K, n, C, H, W)``.
        row: int64 ``(K,)``, from ``-most[0]`` to ``most[0]``.
        column: int64 ``(K,)``, likewise.
        most: The largest shifts.
    """
    high, wide = most
    height, width = x.shape[-2:]
    padded = nn.functional.pad(x, (wide, wide, high, high))
    rows = (row + high)[:, None] + torch.arange(height, device=x.device)
    columns = (column + wide)[:, None] + torch.arange(width, device=x.device)
    pixels = (rows[:, :, None] * padded.shape[-1] + columns[:, None, :]).flatten(1)[:, None]
    flat = padded.flatten(3).flatten(1, 2)
    return flat.gather(2, pixels.expand(-1, flat.shape[1], -1)).view_as(x)


def cut_out(x: Tensor, row: Tensor, column: Tensor, size: tuple[int, int]) -> Tensor:
    """Set a box to 0.

    Args:
        x: Images ``(K, n, C, H, W)``.
        row: Of the centre, int64 ``(K,)``; of an even number of rows the one after the middle.
        column: Likewise.
        size: Rows and columns of the box, of which those outside do not matter.
    """

    def inside(centre: Tensor, side: int, length: int) -> Tensor:
        place = torch.arange(length, device=x.device) - (centre - side // 2)[:, None]
        return (place >= 0) & (place < side)

    rows, columns = inside(row, size[0], x.shape[-2]), inside(column, size[1], x.shape[-1])
    kept = ~(rows[:, :, None] & columns[:, None, :])
    return x * kept[:, None, None].to(x.dtype)


def flipped(x: Tensor, u: Tensor, probability: float) -> Tensor:
    """Mirror left and right where ``u`` is below ``probability``.

    Args:
        x: Images ``(K, n, C, H, W)``.
        u: Uniform in [0, 1), ``(K,)``.
        probability: Of a mirror image.
    """
    return torch.where(_wide(u < probability), x.flip(-1), x)


def scaled(x: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    """Shrink each side by a factor around the centre; a factor below 1 stretches it.

    Args:
        x: Images ``(K, n, C, H, W)``.
        vertical: Factors of the height, ``(K,)``.
        horizontal: Factors of the width, ``(K,)``.
    """
    none = torch.zeros_like(vertical)
    return _mapped(x, [[horizontal, none, none], [none, vertical, none]])


def rotated(x: Tensor, angle: Tensor) -> Tensor:
    """Rotate around the centre.

    Args:
        x: Images ``(K, n, C, H, W)``.
        angle: In radians, ``(K,)``.
    """
    none = torch.zeros_like(angle)
    return _mapped(x, [[angle.cos(), -angle.sin(), none], [angle.sin(), angle.cos(), none]])


def _mapped(x: Tensor, matrix: list[list[Tensor]]) -> Tensor:
    """Take each pixel from where a linear map in coordinates from -1 to 1 says, between four neighbours."""
    flat = x.flatten(1, 2)
    theta = torch.stack([torch.stack(row, 1) for row in matrix], 1)
    grid = nn.functional.affine_grid(theta, list(flat.shape), align_corners=False)
    return nn.functional.grid_sample(flat, grid, align_corners=False).view_as(x)


def _wide(u: Tensor) -> Tensor:
    return u[:, None, None, None, None]


def _share(length: int, share: float) -> int:
    """The nearest number of pixels."""
    return int(length * share + 0.5)


Operation = Callable[[SiameseAugmentation, Tensor, Tensor], Tensor]


def _color(settings: SiameseAugmentation, x: Tensor, u: Tensor) -> Tensor:
    x = brighter(x, u[:, 0], settings.brightness)
    x = saturated(x, u[:, 1], settings.saturation) if x.shape[2] > 1 else x
    return contrasted(x, u[:, 2], settings.contrast)


def _crop(settings: SiameseAugmentation, x: Tensor, u: Tensor) -> Tensor:
    most = _share(x.shape[-2], settings.crop), _share(x.shape[-1], settings.crop)
    row, column = ((u[:, i] * (2 * most[i] + 1)).long() - most[i] for i in range(2))
    return shifted(x, row, column, most)


def _cutout(settings: SiameseAugmentation, x: Tensor, u: Tensor) -> Tensor:
    size = _share(x.shape[-2], settings.cutout), _share(x.shape[-1], settings.cutout)
    row, column = ((u[:, i] * (x.shape[i - 2] + 1 - size[i] % 2)).long() for i in range(2))
    return cut_out(x, row, column, size)


def _flip(settings: SiameseAugmentation, x: Tensor, u: Tensor) -> Tensor:
    return flipped(x, u[:, 0], settings.flip)


def _scale(settings: SiameseAugmentation, x: Tensor, u: Tensor) -> Tensor:
    least = 1 / settings.scale
    factors = least + u * (settings.scale - least)
    return scaled(x, factors[:, 1], factors[:, 0])


def _rotate(settings: SiameseAugmentation, x: Tensor, u: Tensor) -> Tensor:
    return rotated(x, (u[:, 0] - 0.5) * 2 * math.radians(settings.rotate))


OPERATIONS: dict[str, Operation] = {
    "color": _color,
    "crop": _crop,
    "cutout": _cutout,
    "flip": _flip,
    "scale": _scale,
    "rotate": _rotate,
}
