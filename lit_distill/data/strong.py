"""Strong augmentation of whole batches, on whatever device they are: a second, harder view of every image.

RandAugment (Cubuk et al., CVPR Workshops 2020, https://arxiv.org/abs/1909.13719) does a few of fourteen operations to
an image, each by a fixed amount. Here every image gets all operations, so that a batch is done at once, by amounts of
its own: uniform up to what torchvision's ``RandAugment(2, 10)`` turns, shears, shifts, brightens and contrasts. Zoom,
which it lacks, goes as far as shear. In MLLD's own strong views, made in ``mdistiller/dataset`` of
``Jin-Ying/Multi-Level-Logit-Distillation``, two operations go up to two or three times as far, as its code never reads
the magnitude of 10; the hole is as large as here.

Every pixel comes from elementwise arithmetic and one interpolation: without sums over an image or matrix products,
whose rounding depends on the size of the batch, a view has the same bits in any batch.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from lit_distill.data.augment import random_flip
from lit_distill.data.counter_rng import Draw

TURN = math.radians(10)
SHEAR = 0.1
ZOOM = 0.1
SHIFT = 0.15
LIGHT = 0.3
CUT = 0.5


def strongly_augmented(x: Tensor, mean: Tensor, flip: bool, draw: Callable[[Draw], Tensor]) -> Tensor:
    """Strong views of images: mapped affinely, brighter or darker, with more or less contrast, and a hole.

    Args:
        x: Images with pixels in [0, 255], ``(B, C, H, W)``.
        mean: Of each channel over the training set, ``(C, 1, 1)``: contrast is about it, and holes are filled with it.
        flip: Whether to mirror half of the images.
        draw: One number an image for a purpose, uniform in [0, 1), ``(B,)``.

    Returns:
        Images with pixels in [0, 255], float32 ``(B, C, H, W)``.
    """
    if flip:
        x = random_flip(x, draw(Draw.STRONG_FLIP))
    shear = draw(Draw.SHEAR_X), draw(Draw.SHEAR_Y)
    shift = draw(Draw.SHIFT_X), draw(Draw.SHIFT_Y)
    x = random_affine(x.float(), draw(Draw.TURN), draw(Draw.ZOOM), shear, shift)
    x = random_light(x, mean, draw(Draw.BRIGHTNESS), draw(Draw.CONTRAST))
    return random_cutout(x, mean, draw(Draw.CUT_ROW), draw(Draw.CUT_COLUMN), draw(Draw.CUT_SIDE))


def random_affine(
    x: Tensor, turn: Tensor, zoom: Tensor, shear: tuple[Tensor, Tensor], shift: tuple[Tensor, Tensor]
) -> Tensor:
    """Turn images by up to 10 degrees, zoom and shear them by up to 0.1, shift them by up to 0.15 of their sides.

    All numbers are uniform in [0, 1), ``(B,)``; one half changes nothing.

    Args:
        x: Images, float ``(B, C, H, W)``; beyond their edges they are black, 0.
        turn: How far each is turned about its centre.
        zoom: How much smaller or larger it becomes.
        shear: How far its rows are moved, the more the farther from the centre, and its columns.
        shift: How far it is moved to the side, and up or down.

    Returns:
        Images ``(B, C, H, W)``.
    """
    height, width = x.shape[-2:]
    # The tangent of half the angle gives sine and cosine without functions, which round in ways of their own.
    t = _spread(turn, math.tan(TURN / 2))
    cosine, sine = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
    scale, (across, down) = 1 + _spread(zoom, ZOOM), (_spread(u, SHEAR) for u in shear)
    right, below = (_spread(u, SHIFT) * side for u, side in zip(shift, (width, height), strict=True))
    # Where pixels come from, in pixels off the centre, as grid_sample wants to know.
    rows = _centres(height, x)[:, None] - height / 2
    columns = _centres(width, x) - width / 2
    sheared = columns + across * rows, rows + down * columns
    source = (
        scale * (cosine * sheared[0] - sine * sheared[1]) + right,
        scale * (sine * sheared[0] + cosine * sheared[1]) + below,
    )
    grid = torch.stack([source[0] * (2 / width), source[1] * (2 / height)], -1)
    return grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def random_light(x: Tensor, mean: Tensor, brightness: Tensor, contrast: Tensor) -> Tensor:
    """Multiply pixels by 0.7 to 1.3, and then their distance from the mean by 0.7 to 1.3.

    Args:
        x: Images with pixels in [0, 255], float ``(B, C, H, W)``.
        mean: What contrast is about, ``(C, 1, 1)``.
        brightness: How much each is brightened, uniform in [0, 1), ``(B,)``; one half changes nothing.
        contrast: Likewise its contrast.

    Returns:
        Images with pixels in [0, 255], ``(B, C, H, W)``.
    """
    light, spread = (1 + _spread(u, LIGHT)[:, None] for u in (brightness, contrast))
    return ((x * light - mean) * spread + mean).clamp(0, 255)


def random_cutout(x: Tensor, fill: Tensor, row: Tensor, column: Tensor, side: Tensor) -> Tensor:
    """Fill a rectangle of every image, as high and wide as up to half of it, where it does not reach outside.

    DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", 2017,
    https://arxiv.org/abs/1708.04552; the rectangle's centre is anywhere in the image, as there.

    Args:
        x: Images ``(B, C, H, W)``.
        fill: With what, ``(C, 1, 1)``.
        row: Where the centre lies, uniform in [0, 1), ``(B,)``; 0 is the upper edge.
        column: Likewise from the left.
        side: How large the rectangle is, uniform in [0, 1), ``(B,)``.

    Returns:
        Images ``(B, C, H, W)``.
    """
    height, width = x.shape[-2:]
    half = CUT / 2 * _of_images(side)
    hit_rows = (_centres(height, x)[:, None] / height - _of_images(row)).abs() < half
    hit_columns = (_centres(width, x) / width - _of_images(column)).abs() < half
    return torch.where((hit_rows & hit_columns)[:, None], fill, x)


def _of_images(u: Tensor) -> Tensor:
    """One number an image, for all its pixels, ``(B, 1, 1)``."""
    return u[:, None, None]


def _spread(u: Tensor, most: float) -> Tensor:
    """Numbers in [0, 1) stretched to [-most, most), ``(B, 1, 1)``."""
    return most * (2 * _of_images(u) - 1)


def _centres(size: int, like: Tensor) -> Tensor:
    """Where the pixels of a side have their centres, in pixels from its beginning."""
    return torch.arange(size, dtype=like.dtype, device=like.device) + 0.5
