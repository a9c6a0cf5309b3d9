"""Drawn shapes, of which the class of every pixel and the box of every object are known exactly."""

import math
from typing import Any, Literal

import torch
from torch import Tensor

from lit_distill.data.base import at_least
from lit_distill.data.counter_rng import Draw, uniform
from lit_distill.data.dense import DenseBatch, DenseData, DenseImages

#: What is drawn, by class; class 0 is the background.
CLASSES = ("background", "circle", "square", "triangle", "cross")

#: The largest number of shapes in an image.
SLOTS = 4

#: An object of which fewer pixels are to be seen has no box.
LEAST_PIXELS = 12

_PARTS = ("train", "val", "test")
_NUMBERS = 16  # drawn for each shape, and for the background


class ShapeImages(DenseImages):
    """Shapes on a background that shades from one colour to another, under noise.

    Each image has one to four circles, squares, triangles and crosses of any size, angle and colour, the later ones
    over the earlier. What an image shows depends on (seed, part, position) alone.

    Args:
        count: How many images.
        size: Their height and width.
        seed: Draws them.
        part: Which set; no two share an image.
        kind: Whether the class of every pixel is wanted, or the box of every object.

    Example:
        >>> x, target = ShapeImages(count=8, size=32, seed=0, part="train", kind="masks").take([3, 5])
        >>> x.shape, target.shape
        (torch.Size([2, 3, 32, 32]), torch.Size([2, 32, 32]))
    """

    def __init__(
        self,
        count: int,
        size: int,
        seed: int,
        part: Literal["train", "val", "test"],
        kind: Literal["masks", "boxes"],
    ) -> None:
        self.count = count
        self.size = size
        self.seed = seed
        self.part = _PARTS.index(part)
        self.kind = kind

    def __len__(self) -> int:
        return self.count

    def take(self, positions: list[int]) -> DenseBatch:
        """The images at these positions, and what is in them.

        Args:
            positions: Which images.
        """
        at = torch.tensor(positions)
        numbers = self._uniform(Draw.SHAPE, at, (SLOTS + 1) * _NUMBERS).unflatten(1, (SLOTS + 1, _NUMBERS))
        shapes, scene = numbers[:, :SLOTS], numbers[:, SLOTS]
        labels = 1 + (shapes[..., 0] * (len(CLASSES) - 1)).long()  # (B, SLOTS)
        drawn = torch.arange(SLOTS) <= (scene[:, :1] * SLOTS)
        inside = _covered(shapes, labels, self.size) & drawn[..., None, None]
        owner = torch.zeros(inside.shape[0], *inside.shape[2:], dtype=torch.long)  # 0 where nothing is
        for slot in range(SLOTS):
            owner[inside[:, slot]] = slot + 1
        x = self._painted(owner, shapes, scene, at)
        if self.kind == "masks":
            classes = torch.cat([torch.zeros_like(labels[:, :1]), labels], dim=1)
            return DenseBatch(x, classes.gather(1, owner.flatten(1)).view_as(owner))
        return DenseBatch(x, [boxes_of(o, own) for o, own in zip(owner, labels, strict=True)])

    def _painted(self, owner: Tensor, shapes: Tensor, scene: Tensor, at: Tensor) -> Tensor:
        """The images, uint8 ``(B, 3, H, W)``, from which shape each pixel shows."""
        base, end = 0.25 + 0.5 * scene[:, 1:4], 0.25 + 0.5 * scene[:, 4:7]  # (B, 3)
        ramp = torch.linspace(0, 1, self.size)
        angle = 2 * math.pi * scene[:, 7, None, None]
        way = 0.5 + (ramp - 0.5) * angle.cos() * 0.7 + (ramp[:, None] - 0.5) * angle.sin() * 0.7
        ground = base[..., None, None] + (end - base)[..., None, None] * way[:, None]
        # darker or lighter than the middle of the background in every channel, by a sixth at least
        sign = torch.where(shapes[..., 5:8] < 0.5, -1.0, 1.0)
        colour = ((base + end) / 2)[:, None] + sign * (0.16 + 0.3 * shapes[..., 8:11])  # (B, SLOTS, 3)
        colour = torch.cat([torch.zeros_like(colour[:, :1]), colour], dim=1).transpose(1, 2)
        shown = colour.gather(2, owner.flatten(1)[:, None].expand(-1, 3, -1)).view_as(ground)
        noise = self._uniform(Draw.SHAPE_NOISE, at, 3 * self.size**2).view_as(ground) - 0.5
        image = torch.where(owner[:, None] > 0, shown, ground) + 0.2 * noise
        return (255 * image).round().clamp(0, 255).byte()

    def _uniform(self, draw: Draw, at: Tensor, count: int) -> Tensor:
        """So many numbers in [0, 1) for each image, ``(B, count)``."""
        return uniform(self.seed, self.part, draw, at[:, None] * count + torch.arange(count))


def _covered(shapes: Tensor, labels: Tensor, size: int) -> Tensor:
    """Which pixels lie within each shape, bool ``(B, SLOTS, H, W)``."""
    centre = size * (0.12 + 0.76 * shapes[..., 1:3])
    radius = size * (0.11 + 0.12 * shapes[..., 3])
    angle = 2 * math.pi * shapes[..., 4]
    pixel = torch.arange(size) + 0.5  # the middle of each
    right = (pixel - centre[..., :1])[..., None, :] / radius[..., None, None]
    down = (pixel - centre[..., 1:])[..., :, None] / radius[..., None, None]
    cos, sin = angle.cos()[..., None, None], angle.sin()[..., None, None]
    u, v = right * cos + down * sin, down * cos - right * sin
    wide, long = u.abs(), v.abs()
    within = {
        "circle": u.square() + v.square() <= 0.9**2,
        "square": torch.maximum(wide, long) <= 0.8,
        "triangle": torch.stack([v, -v / 2 + u * 0.75**0.5, -v / 2 - u * 0.75**0.5]).amax(0) <= 0.55,
        "cross": (torch.minimum(wide, long) <= 0.32) & (torch.maximum(wide, long) <= 1),
    }
    every = torch.stack([within[name] for name in CLASSES[1:]])
    chosen = (labels - 1)[None, ..., None, None].expand(1, *every.shape[1:])
    return every.gather(0, chosen)[0]


def boxes_of(owner: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The boxes around what is to be seen of each object of an image, and their classes.

    Args:
        owner: Number of the object that each pixel shows, from 1 on, int64 ``(H, W)``.
        labels: Class of every object, int64 ``(n,)``.

    Returns:
        ``boxes``, float32 ``(m, 4)``: left, top, right and bottom edge in pixels; and ``labels``, int64 ``(m,)``.

    Example:
        >>> owner = torch.zeros(8, 8, dtype=torch.long)
        >>> owner[1:5, 2:8] = 1
        >>> boxes_of(owner, torch.tensor([3, 1]))
        {'boxes': tensor([[2., 1., 8., 5.]]), 'labels': tensor([3])}
    """
    boxes, kept = [], []
    for number, label in enumerate(labels.tolist(), start=1):
        seen = owner == number
        if int(seen.sum()) < LEAST_PIXELS:
            continue
        rows, columns = seen.any(1).nonzero(), seen.any(0).nonzero()
        boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        kept.append(label)
    return {"boxes": torch.tensor(boxes).float().view(-1, 4), "labels": torch.tensor(kept, dtype=torch.long)}


class Shapes(DenseData):
    """Images of shapes, drawn as they are needed.

    Each has one to four circles, squares, triangles and crosses (classes 1 to 4) of any size, angle and colour, the
    later ones over the earlier, on a background (class 0) that shades from one colour to another, under noise.

    Args:
        size: Height and width of the images.
        train_images: How many images there are to train on; they are the same in every epoch.
        val_images: How many to validate on.
        test_images: How many to test on.
        shapes_seed: Draws them: with the same, all runs see the same images whatever their ``seed``.

    Raises:
        InputError: When an argument is outside its range.
    """

    num_classes = len(CLASSES)
    kind: Literal["masks", "boxes"]

    def __init__(
        self,
        size: int = 64,
        train_images: int = 512,
        val_images: int = 128,
        test_images: int = 256,
        shapes_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.input_shape = (3, at_least(16, size, "size"), size)
        self.counts = {
            "train": at_least(1, train_images, "train_images"),
            "val": at_least(1, val_images, "val_images"),
            "test": at_least(1, test_images, "test_images"),
        }
        self.shapes_seed = shapes_seed

    def read(self, part: Literal["train", "val", "test"]) -> ShapeImages:
        """One of the three sets."""
        return ShapeImages(self.counts[part], self.input_shape[1], self.shapes_seed, part, self.kind)


class ShapeMasks(Shapes):
    """Images of shapes with the class of every pixel, for segmentation.

    Batches are normalised images, float ``(B, 3, H, W)``, and classes, int64 ``(B, H, W)``: 0 is the background, then
    come circle, square, triangle and cross. Everything is drawn from ``shapes_seed``, no file is read.
    """

    kind = "masks"
    mean = (0.5, 0.5, 0.5)
    std = (0.2, 0.2, 0.2)


class ShapeBoxes(Shapes):
    """Images of shapes with a box around each, for detection.

    Batches are images in [0, 1], float ``(B, 3, H, W)``, for torchvision's detectors normalise by themselves; and a
    dict for each image with ``boxes``, float32 ``(n, 4)``: left, top, right and bottom edge in pixels of what is to be
    seen of a shape, and ``labels``, int64 ``(n,)``: 1 is a circle, then come square, triangle and cross. A shape of
    which fewer than 12 pixels are to be seen has no box. Everything is drawn from ``shapes_seed``, no file is read.
    """

    kind = "boxes"
    mean = (0.0, 0.0, 0.0)
    std = (1.0, 1.0, 1.0)
