"""Crops of random size and shape, stretched to the size of the image."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

TRIES = 10


class Box(NamedTuple):
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


def random_box(
    size: tuple[int, int],
    generator: torch.Generator,
    smallest: float = 0.08,
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box:
    """A box whose share of the area and, in logarithms, ratio of the sides are uniform: "inception crops".

    Boxes that do not fit are drawn again; after ten in vain it is the largest central one of an allowed ratio. Equal in
    distribution to ``torchvision.transforms.RandomResizedCrop``, whose random numbers are global.

    Args:
        size: Height and width of the image.
        generator: On the CPU.
        smallest: The least share of the area; the largest is the whole image.
        ratio: Least and largest ratio of width to height.
    """
    height, width = size
    for _ in range(TRIES):
        area, shape, down, right = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
        pixels = height * width * (smallest + area * (1 - smallest))
        drawn = math.exp(math.log(ratio[0]) + shape * math.log(ratio[1] / ratio[0]))
        w, h = round(math.sqrt(pixels * drawn)), round(math.sqrt(pixels / drawn))
        if 0 < w <= width and 0 < h <= height:
            return Box(int(down * (height - h + 1)), int(right * (width - w + 1)), h, w)
    h, w = min(height, round(width / ratio[0])), min(width, round(height * ratio[1]))
    return Box((height - h) // 2, (width - w) // 2, h, w)


def cropped(images: Tensor, box: Box, size: tuple[int, int]) -> Tensor:
    """A part of images, stretched or shrunk to a size, differentiable.

    Args:
        images: ``(B, C, H, W)``.
        box: Which part.
        size: Height and width of the result.
    """
    part = images[..., box.top : box.top + box.height, box.left : box.left + box.width]
    if part.shape[-2:] == size:
        return part
    return nn.functional.interpolate(part, size=size, mode="bilinear", antialias=True)
