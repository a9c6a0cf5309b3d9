"""A network that was trained on other images than the ones it gets."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from lit_distill.errors import InputError


class InputAdapter(nn.Module):
    r"""Give a network the images it was trained on, whatever the data module prepared.

    Undoes the normalisation of the data, resizes (bilinear, with antialiasing, as image libraries do), repeats a
    single channel, and applies the network's own normalisation:

    .. math:: x' = (\mathrm{resize}(x \, \sigma_{data} + \mu_{data}) - \mu) / \sigma

    With equal statistics, size and channels it changes nothing.

    >>> InputAdapter(nn.Identity(), size=4, channels=3)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 3, 4, 4])

    Args:
        model: The network; it sees ``(B, channels, *size)``.
        size: Height and width that the network takes, one number for a square; default: as they come.
        channels: Channels that the network takes: a single one is repeated; default: as they come.
        mean: Mean of each channel that the network was trained with, for raw images in [0, 1]; default: 0.
        std: Standard deviation of each channel that the network was trained with; default: 1.
        data_mean: Mean of each channel that the data module subtracts; default: 0.
        data_std: Standard deviation of each channel that the data module divides by; default: 1.

    Raises:
        InputError: Statistics for another number of channels, or a deviation or size that is not positive;
            images whose channels fit neither ``channels`` nor the statistics.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        model: nn.Module,
        size: int | tuple[int, int] | None = None,
        channels: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        data_mean: Sequence[float] | None = None,
        data_std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.size = None if size is None else (size, size) if isinstance(size, int) else tuple(size)
        self.channels = channels
        if self.size is not None and min(self.size) < 1:
            raise InputError(f"size must be positive, not {size}")
        if channels is not None and channels < 1:
            raise InputError(f"channels must be positive, not {channels}")
        given = {"mean": mean, "std": std, "data_mean": data_mean, "data_std": data_std}
        lengths = {name: len(values) for name, values in given.items() if values is not None}
        allowed = sorted({1, channels or max([1, *lengths.values()])})
        for name, length in lengths.items():
            if length not in allowed:
                raise InputError(f"{name} must have {' or '.join(map(str, allowed))} numbers, not {length}")
        for name, values in (("std", std), ("data_std", data_std)):
            if values is not None and min(values) <= 0:
                raise InputError(f"{name} must be positive, not {list(values)}")
        self.data_channels = max(lengths.get("data_mean", 1), lengths.get("data_std", 1))
        mu, sigma, data_mu, data_sigma = (
            torch.tensor(values if values is not None else [default], dtype=torch.float64)
            for values, default in ((mean, 0.0), (std, 1.0), (data_mean, 0.0), (data_std, 1.0))
        )
        # Both normalisations in one multiplication and one addition, exactly 1 and 0 where they agree. Not
        # persistent: they come from the arguments, and a checkpoint should fit with or without them.
        scale, shift = torch.broadcast_tensors(data_sigma / sigma, (data_mu - mu) / sigma)
        self.register_buffer("scale", scale.float().view(-1, 1, 1), persistent=False)
        self.register_buffer("shift", shift.float().view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` as the data module made them, to what ``model`` gives."""
        found = x.shape[1] if x.ndim == 4 else None
        wanted = self.channels or found
        if wanted is None or not (
            found in (1, wanted) and self.data_channels in (1, found) and len(self.scale) in (1, wanted)
        ):
            raise InputError(
                f"InputAdapter with channels={self.channels}, data statistics of {self.data_channels} and a "
                f"normalisation of {len(self.scale)} channels cannot take images of shape {tuple(x.shape)}"
            )
        adapted = x.to(torch.promote_types(x.dtype, torch.float32))  # no resizing in half precision on CPUs
        if self.size is not None and x.shape[2:] != self.size:
            # Before the normalisation, which commutes with it: weights of an interpolation sum to one.
            adapted = interpolate(adapted, self.size, mode="bilinear", antialias=True)
        adapted = adapted.expand(-1, wanted, -1, -1) * self.scale + self.shift
        return cast(Tensor, self.model(adapted.to(x.dtype)))
