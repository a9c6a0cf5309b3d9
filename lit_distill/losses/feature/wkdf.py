"""Wasserstein distance between features: each channel as a Gaussian over the positions."""

from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from lit_distill.core.outputs import Outputs
from lit_distill.core.projectors import ConvProjector
from lit_distill.errors import InputError
from lit_distill.losses.base import FeatureLoss
from lit_distill.losses.checks import require
from lit_distill.losses.precision import fp32
from lit_distill.losses.views import as_map


@fp32
def wkdf(student: Tensor, teacher: Tensor, mean_weight: float = 4.0, grid: int = 1, eps: float = 1e-5) -> Tensor:
    r"""Weighted squared gaps of means and deviations of two maps' channels; the formula stands in :class:`WKDF`.

    Args:
        student: Map of the student, ``(B, C, H_s, W_s)``.
        teacher: Map of the teacher, ``(B, C, H_t, W_t)``.
        mean_weight: Factor of the means.
        grid: Cells along each side.
        eps: Added to variances.

    Returns:
        A scalar.

    Raises:
        InputError: If they are not maps of the same samples with the same number of channels, or a cell has one
            position only.

    Example:
        >>> x = torch.randn(2, 3, 4, 4)
        >>> round(wkdf(x + 1, x).item(), 3)
        12.0
    """
    means, deviations = gaussian_gaps(student, teacher, grid, eps)
    return mean_weight * means + deviations


@fp32
def gaussian_gaps(student: Tensor, teacher: Tensor, grid: int = 1, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    """Squared gaps of the means and of the standard deviations, summed over channels, mean over samples and cells.

    Args:
        student: Map of the student, ``(B, C, H_s, W_s)``.
        teacher: Map of the teacher, ``(B, C, H_t, W_t)``.
        grid: Cells along each side.
        eps: Added to variances.

    Returns:
        Two scalars.

    Raises:
        InputError: As :func:`wkdf`.
    """
    require(
        student.dim() == teacher.dim() == 4 and student.shape[:2] == teacher.shape[:2],
        "student and teacher maps",
        f"{tuple(student.shape)} and {tuple(teacher.shape)}",
        "maps (B, C, H, W) of the same samples and channels",
    )
    (s_mean, s_std), (t_mean, t_std) = (_gaussians(x, grid, eps) for x in (student, teacher))
    # summed over channels alone
    means, deviations = (gap.square().sum(2).mean() for gap in (s_mean - t_mean, s_std - t_std))
    return means, deviations


def _gaussians(x: Tensor, grid: int, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel in each cell, both ``(grid², B, C)``."""
    rows, columns = (_bounds(size, grid) for size in x.shape[2:])
    cells = [x[:, :, top:bottom, left:right] for top, bottom in rows for left, right in columns]
    require(
        all(cell.shape[2:].numel() > 1 for cell in cells),
        "layers",
        f"{grid} by {grid} cells of maps of {x.shape[2]} by {x.shape[3]}",
        "maps with more than one position in each cell",
    )
    # not the mean of squares minus the square of the mean, which cancels where a channel is nearly constant
    both = [torch.var_mean(cell, dim=(2, 3)) for cell in cells]
    return torch.stack([mean for _, mean in both]), torch.stack([(var + eps).sqrt() for var, _ in both])


def _bounds(size: int, grid: int) -> list[tuple[int, int]]:
    """Where cells begin and end; they overlap where they do not fill the map, as those of adaptive pooling do."""
    return [(i * size // grid, ceil((i + 1) * size / grid)) for i in range(grid)]


class WKDF(FeatureLoss):
    r"""Each channel's distribution over the positions is near the teacher's, both seen as Gaussians (WKD-F).

    Paper: Lv, Yang, Li, Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation, NeurIPS
        2024, https://arxiv.org/abs/2412.08139

    .. math:: \sum_{(s, t)} \frac{1}{B} \sum_{bc} r \, (\mu^s_{bc} - \mu^t_{bc})^2 + (\sigma^s_{bc} -
        \sigma^t_{bc})^2, \qquad \sigma_{bc} = \sqrt{\mathrm{Var}_{hw} f_{bchw} + \epsilon}

    That is the squared Wasserstein distance between Gaussians with a diagonal covariance, but for the factor r of the
    means. The student's map first passes a projector, a 1x1 convolution with BatchNorm and ReLU, which is trained with
    the student and dropped after. With a grid each cell has its own Gaussians, over whose number the mean is taken.

    The authors take the last stage, r = 4 and one cell, beside cross entropy with weight 1, and a weight of 0.08 on
    CIFAR-100 that falls to 0 from epoch 150 of 240 on (callback ``Schedule`` with path ``losses.wkdf.weight``, shape
    ``cosine`` and begin 0.625). Together with :class:`~lit_distill.losses.logit.wkdl.WKDL` r is 8.

    Args:
        mean_weight: Factor r of the means.
        grid: Cells along each side of the map.
        eps: Added to variances, inside the square root.
        layers: Student module path to teacher module path. Default: the last stage of each network.

    Shape:
        Maps ``(B, D, H, W)`` of any size in each network, or tokens ``(B, N, D)`` without their prefix; output a
        scalar, summed over the pairs.

    Raises:
        InputError: If a hyperparameter is out of range, a cell has one position only, or the loss is called before
            :meth:`build`.

    Traps:
        - The sum over channels is not divided by their number.
        - The variance is the unbiased one, over n - 1 positions: maps of different size differ in it by a little even
          where one is the other one repeated.
        - The projector ends with a ReLU: a channel of the teacher with a negative mean cannot be reached.

    Code: ``JiamingLv/WKD:mdistiller/distillers/WKD.py`` with its projector ``conv1x1``, equal to this.

    Example:
        >>> student = Outputs(torch.zeros(2, 10), {"layer4": torch.randn(2, 3, 8, 8)})
        >>> teacher = Outputs(torch.zeros(2, 10), {"layer4": torch.randn(2, 5, 4, 4)})
        >>> loss = WKDF(layers={"layer4": "layer4"}, weight=0.08)
        >>> loss.build(student, teacher)
        >>> loss(student, teacher, torch.tensor([0, 3])).shape
        torch.Size([])
    """

    default_view = "last"

    def __init__(self, mean_weight: float = 4.0, grid: int = 1, eps: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require(mean_weight >= 0, "mean_weight", mean_weight, "0 or positive")
        require(grid > 0, "grid", grid, "positive")
        require(eps > 0, "eps", eps, "positive")
        self.mean_weight = mean_weight
        self.grid = grid
        self.eps = eps
        self.projectors = nn.ModuleList()

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Create one projector for each pair of layers, on the device of the student's maps.

        Args:
            student: What the student said about the example batch.
            teacher: What the teacher said about it.
        """
        projectors = []
        for s, t in self.pairs(student, teacher):
            projector = ConvProjector(kernel_size=1)
            projector.build(as_map(s), as_map(t))
            projectors.append(projector)
        self.projectors = nn.ModuleList(projectors)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Distance of the channels' Gaussians, summed over the pairs."""
        if len(self.projectors) != len(self.layers):
            raise InputError("WKDF must be built with the outputs of a dry run before it is called, got no build()")
        terms = []
        for projector, (s, t) in zip(self.projectors, self.pairs(student, teacher), strict=True):
            terms.append(wkdf(projector(as_map(s)), as_map(t), self.mean_weight, self.grid, self.eps))
        return torch.stack(terms).sum()
