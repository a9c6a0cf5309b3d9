"""ONNX's own operators for 8-bit numbers, which its runtimes have integer arithmetic for."""

import torch
from torch import Tensor


def quantize_linear(x: Tensor, step: Tensor, zero: Tensor) -> Tensor:
    """``QuantizeLinear`` in an ONNX graph: the number of the nearest step; has no value outside ``torch.onnx.export``.

    Args:
        x: What to round.
        step: Size of a step, a scalar.
        zero: The number of the step that is 0, a scalar of the type of the answer.
    """
    return torch.onnx.ops.symbolic("QuantizeLinear", (x.float(), step.float(), zero), dtype=zero.dtype, shape=x.shape)


def dequantize_linear(steps: Tensor, step: Tensor, zero: Tensor | None = None) -> Tensor:
    """``DequantizeLinear`` in an ONNX graph: steps times their size; has no value outside ``torch.onnx.export``.

    Args:
        steps: Numbers of steps, 8-bit integers.
        step: Size of a step: a scalar, or one for each row of ``steps``, ``(R,)``.
        zero: The number of the step that is 0, of the same shape and the type of ``steps``. Default: 0.
    """
    if zero is None:
        zero = torch.zeros(step.shape, dtype=steps.dtype, device=steps.device)
    return torch.onnx.ops.symbolic(
        "DequantizeLinear",
        (steps, step.float(), zero),
        {"axis": 0},
        dtype=torch.float32,
        shape=steps.shape,
    )
