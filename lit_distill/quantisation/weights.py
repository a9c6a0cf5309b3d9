"""Rounded weights: to a uniform grid, or to points that are learnt."""

from typing import Literal

import torch
from torch import Tensor, nn

from lit_distill.quantisation.buckets import in_buckets, out_of_buckets, span_of
from lit_distill.quantisation.onnx_operators import dequantize_linear
from lit_distill.quantisation.straight_through import StraightThrough

Scaling = Literal["absmax", "linear"]


class WeightQuantiser(nn.Module):
    """A parametrisation that rounds a weight; a subclass says to what.

    Args:
        bits: Binary digits of a weight, from 2 to 8.
        bucket: As ``in_buckets`` takes it.
        scaling: As ``span_of`` takes it.
    """

    def __init__(self, bits: int, bucket: int | None, scaling: Scaling) -> None:
        super().__init__()
        self.bits = bits
        self.bucket = bucket
        self.scaling = scaling
        self.enabled = True

    def integer(self, weight: Tensor) -> tuple[Tensor, nn.Module]:
        """The weight as 8-bit integers of its shape, and the module that turns them into rounded weights again.

        Args:
            weight: The weight before rounding.
        """
        raise NotImplementedError


class UniformWeight(WeightQuantiser):
    r"""Quantised distillation: weights on a uniform grid, with a straight-through gradient.

    .. math:: Q(v) = a \, \frac{\mathrm{round}\big(L \, (v - b) / a\big)}{L} + b

    with the span :math:`a` and the start :math:`b` of each row and :math:`L = 2^\text{bits} - 1` steps for ``linear``,
    :math:`2^{\text{bits} - 1} - 1` on either side of 0 for ``absmax``. The gradient for :math:`v` is the one for
    :math:`Q(v)`.
    """

    def integer(self, weight: Tensor) -> tuple[Tensor, "UniformDecoder"]:
        """The number of steps of each weight, and what multiplies them by the step again."""
        codes, decoder = self.encoded(weight)
        return codes.to(torch.int8 if self.scaling == "absmax" else torch.uint8), decoder

    def encoded(self, weight: Tensor) -> tuple[Tensor, "UniformDecoder"]:
        """The same with the numbers of steps in the weight's own type."""
        rows = in_buckets(weight.detach(), self.bucket)
        span, start = span_of(rows, self.scaling)
        steps = 2 ** (self.bits - 1) - 1 if self.scaling == "absmax" else 2**self.bits - 1
        codes = out_of_buckets(((rows - start) / span * steps).round(), weight)
        return codes, UniformDecoder(span / steps, None if self.scaling == "absmax" else start, self.bucket)

    def forward(self, weight: Tensor) -> Tensor:
        """The rounded weight."""
        if not self.enabled:
            return weight
        codes, decoder = self.encoded(weight)
        return StraightThrough.apply(weight, decoder(codes))


class UniformDecoder(nn.Module):
    """Weights from numbers of steps.

    Args:
        step: Size of a step for each row, ``(R, 1)``.
        start: Where each row starts, ``(R, 1)``; ``None`` at 0.
        bucket: As ``in_buckets`` takes it.
    """

    step: Tensor
    start: Tensor | None

    def __init__(self, step: Tensor, start: Tensor | None, bucket: int | None) -> None:
        super().__init__()
        self.bucket = bucket
        self.register_buffer("step", step)
        self.register_buffer("start", start)

    def forward(self, codes: Tensor) -> Tensor:
        """The weights, in the type of ``step``."""
        rows = in_buckets(codes, self.bucket)
        if torch.onnx.is_in_onnx_export():
            rows = dequantize_linear(rows, self.step.flatten()).to(self.step.dtype)
        else:
            rows = rows.to(self.step.dtype) * self.step
        return out_of_buckets(rows if self.start is None else rows + self.start, codes)


class LearntPoints(WeightQuantiser):
    r"""Differentiable quantisation: fixed weights, each at the nearest of points that are learnt.

    .. math:: Q(v) = a \, p_k + b, \quad k = \arg\min_j \Big| p_j - \frac{v - b}{a} \Big|, \qquad
        \frac{\partial \ell}{\partial p_j} = \sum_{v \,:\, k(v) = j} a \, \frac{\partial \ell}{\partial Q(v)}

    with the span :math:`a` and the start :math:`b` of each weight's row, and one list of :math:`2^\text{bits}` points
    for the whole weight.

    Args:
        bits: The list has ``2 ** bits`` points; from 2 to 8.
        bucket: As ``in_buckets`` takes it.
        initial: Where the points begin: at ``quantiles`` of the weights, so that all are used, or ``uniform``.
        weight: The weight.
    """

    def __init__(self, bits: int, bucket: int | None, initial: Literal["quantiles", "uniform"], weight: Tensor) -> None:
        super().__init__(bits, bucket, "linear")
        points = torch.linspace(0, 1, 2**bits, dtype=weight.dtype, device=weight.device)
        if initial == "quantiles":
            rows, span, start = self.rows(weight)
            values = ((rows - start) / span).flatten().sort().values
            # torch.quantile takes no more than 16 million values
            points = values[(points * (len(values) - 1)).round().long()]
        self.points = nn.Parameter(points)

    def rows(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The weight in rows, with their spans and starts."""
        rows = in_buckets(weight.detach(), self.bucket)
        return rows, *span_of(rows, self.scaling)

    def encoded(self, weight: Tensor) -> tuple[Tensor, "PointDecoder"]:
        """Which point is nearest to each weight, and what looks them up again."""
        rows, span, start = self.rows(weight)
        points = self.points.sort().values
        between = ((points[1:] + points[:-1]) / 2).detach()
        codes = out_of_buckets(torch.bucketize((rows - start) / span, between), weight)
        return codes, PointDecoder(points, span, start, self.bucket)

    def integer(self, weight: Tensor) -> tuple[Tensor, "PointDecoder"]:
        """The number of each weight's point, and the table of points."""
        codes, decoder = self.encoded(weight)
        decoder.points = decoder.points.detach()
        return codes.to(torch.uint8), decoder

    def forward(self, weight: Tensor) -> Tensor:
        """The weight at its points; differentiable for them, and not for the weight."""
        if not self.enabled:
            return weight
        codes, decoder = self.encoded(weight)
        return decoder(codes)


class PointDecoder(nn.Module):
    """Weights from the numbers of their points.

    Args:
        points: The points, ``(2 ** bits,)``.
        span: What a row's points are multiplied by, ``(R, 1)``.
        start: What is added, ``(R, 1)``.
        bucket: As ``in_buckets`` takes it.
    """

    points: Tensor
    span: Tensor
    start: Tensor

    def __init__(self, points: Tensor, span: Tensor, start: Tensor, bucket: int | None) -> None:
        super().__init__()
        self.bucket = bucket
        self.register_buffer("points", points)
        self.register_buffer("span", span)
        self.register_buffer("start", start)

    def forward(self, codes: Tensor) -> Tensor:
        """The weights, in the type of ``points``."""
        rows = self.points[in_buckets(codes, self.bucket).long()] * self.span + self.start
        return out_of_buckets(rows, codes)
