"""Augmentation of whole batches, on whatever device they are."""

import torch
from torch import Tensor


def random_crop(x: Tensor, padding: int, row: Tensor, column: Tensor) -> Tensor:
    """Pad with zeros on every side and cut an image of the old size from each padded one.

    Args:
        x: Images ``(B, C, H, W)``.
        padding: Pixels added on each side.
        row: Where each cut begins, uniform in [0, 1), ``(B,)``; 0 is the topmost of ``2 * padding + 1`` places.
        column: Likewise from the left, ``(B,)``.

    Returns:
        Images ``(B, C, H, W)``.
    """
    batch, channels, height, width = x.shape
    places = 2 * padding + 1
    rows = (row * places).long()[:, None] + torch.arange(height, device=x.device)
    columns = (column * places).long()[:, None] + torch.arange(width, device=x.device)
    padded = torch.nn.functional.pad(x, (padding,) * 4)
    pixels = rows[:, :, None] * padded.shape[-1] + columns[:, None, :]
    pixels = pixels.view(batch, 1, -1).expand(-1, channels, -1)
    return padded.flatten(2).gather(2, pixels).view_as(x)


def random_flip(x: Tensor, chance: Tensor) -> Tensor:
    """Mirror left and right those images of ``x`` whose ``chance``, uniform in [0, 1), is below one half.

    Args:
        x: Images ``(B, C, H, W)``.
        chance: One number an image, ``(B,)``.

    Returns:
        Images ``(B, C, H, W)``.
    """
    return torch.where((chance < 0.5)[:, None, None, None], x.flip(-1), x)
