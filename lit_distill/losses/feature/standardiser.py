"""Features with mean 0 and standard deviation 1 in each channel, by statistics that run along with training."""

from typing import Any

import torch
from torch import Tensor, nn

from lit_distill.errors import InputError
from lit_distill.losses.gather import gathered
from lit_distill.losses.precision import fp32

#: Added to standard deviations.
EPS = 1e-6


class Standardiser(nn.Module):
    r"""Subtracts the running mean of each channel and divides by its running standard deviation.

    Both move towards those of each training batch, of all ranks, by a share :math:`\max(m, 1 / n)` in the n-th step:
    the mean over the batches so far, until there are so many that the latest count more. A batch is standardised by
    what was known before it; the first by itself. Checkpoints hold them as extra state, in float32.

    Args:
        width: Number of channels.

    Example:
        >>> standardise = Standardiser(2)
        >>> standardise(torch.tensor([[0.0, 5.0], [2.0, 7.0], [4.0, 9.0]]), momentum=0.1)
        tensor([[-1.0000, -1.0000],
                [ 0.0000,  0.0000],
                [ 1.0000,  1.0000]])
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mean = torch.zeros(width)
        self.std = torch.ones(width)
        self.steps = 0

    @fp32
    def forward(self, x: Tensor, momentum: float) -> Tensor:
        """Standardised features; in training the statistics move on.

        Args:
            x: Features ``(..., D)``.
            momentum: The least share of a batch, m.
        """
        if self.steps and not self.training:
            return self._standardised(x)
        mean, std = _statistics(x.detach().flatten(0, -2))
        if not self.steps:
            self.mean, self.std = mean, std
        standardised = self._standardised(x)
        if self.training:
            self.steps += 1
            share = max(momentum, 1 / self.steps)
            self.mean = torch.lerp(self.mean.to(mean), mean, share)
            self.std = torch.lerp(self.std.to(std), std, share)
        return standardised

    def _standardised(self, x: Tensor) -> Tensor:
        return (x - self.mean.to(x)) / (self.std.to(x) + EPS)

    def get_extra_state(self) -> dict[str, Tensor]:
        """Everything, for checkpoints."""
        return {"mean": self.mean, "std": self.std, "steps": torch.tensor(self.steps)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint.

        Raises:
            InputError: If it has another number of channels.
        """
        given, own = len(state["mean"]), len(self.mean)
        if given != own:
            raise InputError(f"layers must have as many channels as in the checkpoint, {given}, got {own}")
        self.mean, self.std = state["mean"].clone(), state["std"].clone()
        self.steps = int(state["steps"])


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the rows of all ranks, ``(B, D) -> (D,), (D,)``."""
    own = x.mean(0)
    # of each rank the rows, their mean and the squares around it: around another mean they would cancel
    parts = torch.stack([torch.full_like(own, len(x)), own, (x - own).square().sum(0)])
    counts, means, squares = gathered(parts.unsqueeze(0)).unbind(1)
    total = counts.sum(0)
    mean = (counts * means).sum(0) / total
    squares = squares.sum(0) + (counts * (means - mean).square()).sum(0)
    return mean, (squares / (total - 1).clamp(min=1)).sqrt()
