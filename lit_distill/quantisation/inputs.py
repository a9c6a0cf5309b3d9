"""Rounded inputs of layers."""

from typing import Any

import torch
from torch import Tensor, nn

from lit_distill.quantisation.straight_through import StraightThrough


class InputQuantiser(nn.Module):
    r"""Rounds what a layer gets to a grid over the range that it has seen.

    .. math:: Q(x) = s \, \Big(\mathrm{clip}\big(\mathrm{round}(x / s) + z, 0, 2^\text{bits} - 1\big) - z\Big), \quad
        s = \frac{h - l}{2^\text{bits} - 1}, \quad z = \mathrm{round}(-l / s)

    The range :math:`[l, h]` holds 0 and follows the least and the largest input of every batch in training mode
    (Jacob et al., *Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference*, CVPR
    2018, https://arxiv.org/abs/1712.05877). The gradient is straight-through within the range and 0 outside. Before
    the first batch nothing is rounded.

    Args:
        bits: Binary digits of an input.
        momentum: Share of a new batch in the range.

    Example:
        >>> quantiser = InputQuantiser(bits=2)
        >>> quantiser(torch.tensor([0.0, 1.4, 3.0])).tolist()
        [0.0, 1.0, 3.0]
        >>> quantiser.eval()(torch.tensor([-1.0, 2.2, 9.0])).tolist()
        [0.0, 2.0, 3.0]
    """

    low: Tensor
    high: Tensor

    def __init__(self, bits: int, momentum: float = 0.01) -> None:
        super().__init__()
        self.bits = bits
        self.momentum = momentum
        self.enabled = True
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Let the range follow a batch."""
        low, high = x.amin().float().clamp(max=0), x.amax().float().clamp(min=0)
        share = torch.where(self.high > self.low, self.momentum, 1.0)
        self.low.lerp_(low.to(self.low.dtype), share.to(self.low.dtype))
        self.high.lerp_(high.to(self.high.dtype), share.to(self.high.dtype))

    def grid(self) -> tuple[Tensor, Tensor]:
        """Size of a step, and the number of the step that is 0; scalars in float32."""
        low, high = self.low.float(), self.high.float()
        step = ((high - low) / (2**self.bits - 1)).clamp(min=torch.finfo(torch.float32).tiny)
        return step, (-low / step).round()

    def forward(self, x: Tensor) -> Tensor:
        """The rounded input."""
        if not self.enabled:
            return x
        if self.training:
            self.observe(x)
        with torch.no_grad():
            step, zero = self.grid()
            steps = (x.float() / step).round() + zero
            known = self.high > self.low
            inside = ((steps >= 0) & (steps < 2**self.bits)) | ~known
            rounded = torch.where(known, ((steps.clamp(0, 2**self.bits - 1) - zero) * step).to(x.dtype), x)
        return StraightThrough.apply(x, rounded, inside)


def round_input(layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Forward pre-hook: a layer gets the rounded input.

    Args:
        layer: The layer, whose ``input_quantiser`` rounds.
        args: What it is called with.
    """
    return layer.input_quantiser(args[0]), *args[1:]  # type: ignore[operator]
