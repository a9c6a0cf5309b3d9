"""Bridges between feature spaces of different size, built from the shapes that a dry run saw."""

from typing import cast

import torch
from torch import Tensor, nn

from lit_distill.errors import InputError


class Projector(nn.Module):
    """Maps student activations to the teacher's number of channels.

    A subclass implements :meth:`layers`; the channel numbers are never written down by a user but read off a
    dry run of both networks in :meth:`build`. Maps ``(B, C, H, W)`` get 1x1 convolutions, vectors ``(B, D)``
    and tokens ``(B, N, D)`` linear layers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.net: nn.Module = nn.Identity()

    def build(self, student: Tensor, teacher: Tensor) -> None:
        """Create the layers.

        Args:
            student: Example activation of the student, ``(B, C, H, W)``, ``(B, N, D)`` or ``(B, D)``.
            teacher: Example activation of the teacher, of the same number of dimensions.

        Raises:
            InputError: When one is a map and the other is not.
        """
        if student.ndim != teacher.ndim or student.ndim not in (2, 3, 4):
            raise InputError(
                f"layers: a {type(self).__name__} bridges two maps (B, C, H, W), two token sequences (B, N, D) or "
                f"two vectors (B, D), not {tuple(student.shape)} and {tuple(teacher.shape)}"
            )
        channel = 1 if student.ndim == 4 else -1
        dtype = torch.promote_types(student.dtype, torch.get_default_dtype())  # a dry run may be in half precision
        net = self.layers(student.shape[channel], teacher.shape[channel], student.ndim)
        self.net = net.to(device=student.device, dtype=dtype)

    def layers(self, wide_in: int, wide_out: int, ndim: int) -> nn.Module:
        """The layers from ``wide_in`` to ``wide_out`` channels for activations of ``ndim`` dimensions."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Project ``(B, C, H, W)``, ``(B, N, D)`` or ``(B, D)`` to the teacher's channels."""
        return self.net(x)


class LinearProjector(Projector):
    """One linear map (1x1 convolution on maps).

    Args:
        bias: Whether the map has a bias.
    """

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.bias = bias

    def layers(self, wide_in: int, wide_out: int, ndim: int) -> nn.Module:
        """A 1x1 convolution or a linear layer."""
        return _pointwise(wide_in, wide_out, ndim, bias=self.bias)


class BatchNormProjector(Projector):
    """One linear map followed by batch normalisation, without an activation."""

    def layers(self, wide_in: int, wide_out: int, ndim: int) -> nn.Module:
        """A pointwise map and its normalisation."""
        return nn.Sequential(_pointwise(wide_in, wide_out, ndim, bias=False), _batch_norm(wide_out, ndim))


class ConvProjector(Projector):
    """A 3x3 convolution, batch normalisation and ReLU: for maps.

    Args:
        kernel_size: Odd size of the convolution.
    """

    def __init__(self, kernel_size: int = 3) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise InputError(f"kernel_size: {kernel_size} would shift the map; accepted are odd numbers")
        self.kernel_size = kernel_size

    def layers(self, wide_in: int, wide_out: int, ndim: int) -> nn.Module:
        """A convolution that keeps height and width, its normalisation and a ReLU."""
        if ndim != 4:
            raise InputError(f"layers: a ConvProjector takes maps (B, C, H, W), not activations of {ndim} dimensions")
        convolution = nn.Conv2d(wide_in, wide_out, self.kernel_size, padding=self.kernel_size // 2, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(wide_out), nn.ReLU())


class MLPProjector(Projector):
    """Two pointwise maps with a ReLU between them.

    Args:
        hidden: Width between them; default: the teacher's number of channels.
    """

    def __init__(self, hidden: int | None = None) -> None:
        super().__init__()
        self.hidden = hidden

    def layers(self, wide_in: int, wide_out: int, ndim: int) -> nn.Module:
        """Map, ReLU, map."""
        hidden = self.hidden or wide_out
        return nn.Sequential(_pointwise(wide_in, hidden, ndim), nn.ReLU(), _pointwise(hidden, wide_out, ndim))


class OrthogonalProjector(Projector):
    """A linear map whose rows or columns stay orthonormal, so that it can only rotate and embed.

    Paper: Miles, Elezi and Deng, *VkD: Improving knowledge distillation using orthogonal projections*, CVPR 2024,
    https://arxiv.org/abs/2403.06213. The parametrisation is torch's own, made safe for weight decay, which only pulls
    the map to the one that it began with.
    """

    def layers(self, wide_in: int, wide_out: int, ndim: int) -> nn.Module:
        """An orthogonal linear layer over the channel axis."""
        linear = nn.utils.parametrizations.orthogonal(nn.Linear(wide_in, wide_out, bias=False))
        # before torch's, which rounds the signs that it keeps in the diagonal: 0.999 becomes 0, and all weights with it
        cast(nn.ModuleList, linear.get_submodule("parametrizations.weight")).insert(0, _SignedDiagonal())
        return _OverChannels(linear) if ndim == 4 else linear


class _SignedDiagonal(nn.Module):
    """A matrix whose diagonal holds signs alone, with no gradient, however far weight decay has shrunk them."""

    def forward(self, matrix: Tensor) -> Tensor:
        diagonal = matrix.detach().diagonal()
        return matrix.diagonal_scatter(torch.ones_like(diagonal).copysign(diagonal))


class _OverChannels(nn.Module):
    """Applies a layer of the last axis to the channel axis of a map."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.movedim(1, -1)).movedim(-1, 1)


def _pointwise(wide_in: int, wide_out: int, ndim: int, bias: bool = True) -> nn.Module:
    if ndim == 4:
        return nn.Conv2d(wide_in, wide_out, kernel_size=1, bias=bias)
    return nn.Linear(wide_in, wide_out, bias=bias)


class _TokenBatchNorm(nn.BatchNorm1d):
    """Batch normalisation of ``(B, N, D)`` over batch and tokens."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, 1)).view_as(x)


def _batch_norm(channels: int, ndim: int) -> nn.Module:
    return {2: nn.BatchNorm1d, 3: _TokenBatchNorm, 4: nn.BatchNorm2d}[ndim](channels)
