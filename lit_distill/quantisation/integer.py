"""The 8-bit network that a quantised one stands for."""

from copy import deepcopy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

from lit_distill.errors import InputError
from lit_distill.quantisation.attach import is_quantised
from lit_distill.quantisation.inputs import InputQuantiser
from lit_distill.quantisation.onnx_operators import dequantize_linear, quantize_linear
from lit_distill.quantisation.weights import UniformWeight, WeightQuantiser


class InputGrid(nn.Module):
    """Rounds what a layer gets to a grid that does not change any more.

    Args:
        step: Size of a step, a scalar.
        zero: The number of the step that is 0, a scalar.
        bits: Binary digits of an input.
        uniform: Whether the layer's weights are on a uniform grid too, so that ONNX has integer arithmetic for both.
    """

    step: Tensor
    zero: Tensor

    def __init__(self, step: Tensor, zero: Tensor, bits: int, uniform: bool) -> None:
        super().__init__()
        self.bits = bits
        self.uniform = uniform
        self.register_buffer("step", step)
        self.register_buffer("zero", zero.to(torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        """The rounded input."""
        # Before other weights its runtimes would take the pair as leave to round those too, to a grid of their own.
        if self.uniform and torch.onnx.is_in_onnx_export():
            if self.bits < 8:
                x = x.clamp(-self.zero.float() * self.step, (2**self.bits - 1 - self.zero.float()) * self.step)
            return dequantize_linear(quantize_linear(x, self.step, self.zero), self.step, self.zero).to(x.dtype)
        zero = self.zero.float()
        steps = ((x.float() / self.step).round() + zero).clamp(0, 2**self.bits - 1).to(torch.uint8)
        return ((steps.float() - zero) * self.step).to(x.dtype)


@torch.no_grad()
def as_int8(model: nn.Module) -> nn.Module:
    """A copy of a quantised network whose weights are stored as 8-bit integers, in eval mode.

    It answers what the quantised network does. Each integer is multiplied by its scale when the layer is called;
    digits below 8 are not packed. A state dict has a quarter of the bytes, and less where normalisation is rare.

    Args:
        model: What :func:`quantised` or :func:`with_learnt_points` returned.

    Raises:
        InputError: When the network is not quantised.

    Example:
        >>> from lit_distill.quantisation import quantised
        >>> small = as_int8(quantised(nn.Linear(4, 2), input_bits=None))
        >>> {name: str(value.dtype) for name, value in small.state_dict().items()}["parametrizations.weight.original"]
        'torch.int8'
    """
    if not is_quantised(model):
        raise InputError(f"model: this {type(model).__name__} is not quantised; accepted is what quantised() returned")
    copy = deepcopy(model).eval().requires_grad_(False)
    for layer in list(copy.modules()):
        if not is_parametrized(layer, "weight"):
            continue
        weight = cast(ParametrizationList, layer.parametrizations.weight)  # type: ignore[union-attr]
        quantiser = weight[0]
        if not isinstance(quantiser, WeightQuantiser):
            continue
        if isinstance(inputs := getattr(layer, "input_quantiser", None), InputQuantiser):
            layer.input_quantiser = InputGrid(*inputs.grid(), inputs.bits, isinstance(quantiser, UniformWeight)).eval()
        codes, decoder = quantiser.integer(weight.original)
        # In place: to take the parametrisation off the copy would take it off the class that both share.
        weight[0] = decoder.eval()
        weight.original = nn.Parameter(codes, requires_grad=False)
    return copy
