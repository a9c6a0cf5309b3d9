"""Variational information distillation: the teacher's map is likely, given the student's."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses.base import FeatureLoss
from lit_distill.losses.checks import check_same_shape, require
from lit_distill.losses.precision import fp32
from lit_distill.losses.views import as_map, same_size


@fp32
def vid(mean: Tensor, teacher: Tensor, variance: Tensor) -> Tensor:
    r"""Negative log-likelihood of a map under a Gaussian with one variance a channel, without its constant.

    .. math:: \frac{1}{2} \, \mathrm{mean} \Big( \frac{(\mu - f^t)^2}{\sigma_c^2} + \log \sigma_c^2 \Big)

    Args:
        mean: Prediction from the student's map, ``(B, C, H, W)``.
        teacher: Map of the teacher, ``(B, C, H, W)``.
        variance: Variance of each channel, ``(C,)``.

    Returns:
        A scalar, the mean over all entries; negative where the prediction is good.

    Raises:
        InputError: If the shapes of the maps differ.

    Example:
        >>> vid(torch.ones(2, 3, 4, 4), torch.zeros(2, 3, 4, 4), torch.ones(3))
        tensor(0.5000)
    """
    check_same_shape(mean, teacher, "maps")
    variance = variance.view(-1, 1, 1)
    return ((mean - teacher).square() / variance + variance.log()).mean() / 2


class GaussianRegressor(nn.Module):
    r"""Three 1x1 convolutions, with ReLU between them, to a mean; and a trained variance for each channel.

    .. math:: \sigma_c^2 = \log(1 + e^{\rho_c}) + \epsilon

    Args:
        channels: Channels of the student's map.
        teacher_channels: Channels of the teacher's map, and between the convolutions.
        variance: Every :math:`\sigma_c^2` before training.
        eps: Smallest variance.

    Example:
        >>> mean, variance = GaussianRegressor(3, 5)(torch.zeros(2, 3, 4, 4))
        >>> mean.shape, [round(value, 3) for value in variance.tolist()]
        (torch.Size([2, 5, 4, 4]), [5.0, 5.0, 5.0, 5.0, 5.0])
    """

    def __init__(self, channels: int, teacher_channels: int, variance: float = 5.0, eps: float = 1e-5) -> None:
        super().__init__()
        self.regressor = nn.Sequential(
            nn.Conv2d(channels, teacher_channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher_channels, teacher_channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher_channels, teacher_channels, 1, bias=False),
        )
        self.rho = nn.Parameter(torch.full((teacher_channels,), math.log(math.expm1(variance - eps))))
        self.eps = eps

    def forward(self, student: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, C_s, H, W)`` to the mean ``(B, C_t, H, W)`` and the variance ``(C_t,)``."""
        return self.regressor(student), F.softplus(self.rho) + self.eps


class VID(FeatureLoss):
    r"""The student's maps predict the teacher's, each channel with a variance that is learnt.

    Paper: Ahn et al., Variational Information Distillation for Knowledge Transfer, CVPR 2019,
        https://arxiv.org/abs/1904.05835

    .. math:: \sum_{(s, t)} \frac{1}{2} \, \mathrm{mean} \Big( \frac{(\mu(f^s) - f^t)^2}{\sigma_c^2} +
        \log \sigma_c^2 \Big), \qquad \sigma_c^2 = \log(1 + e^{\rho_c}) + \epsilon

    A lower bound of the mutual information of both maps grows as this falls. The regressors :math:`\mu` and the
    variances are trained with the student and dropped after: a channel that the student cannot predict gets a large
    variance, and no longer disturbs the others. The benchmark of CRD on CIFAR-100 has three stages and weight 1, beside
    cross entropy with weight 1.

    Args:
        variance: Every variance before training.
        eps: Smallest variance.
        layers: Student module path to teacher module path. Default: the ends of the stages, paired by their position.

    Shape:
        Maps ``(B, D, H, W)``, tokens ``(B, N, D)`` without their prefix, or vectors ``(B, D)``, of any size on either
        side: the larger map is averaged to the size of the smaller one. Output a scalar, summed over the pairs.

    Raises:
        InputError: If ``eps`` is not positive or ``variance`` not above it, or the loss is called before
            :meth:`build`.

    Traps:
        - The variances must reach the optimizer and the checkpoint. mdistiller (and what was made from it) keeps them
          in a list that neither sees, which leaves a mean squared error over 5.
        - The value may be negative.
        - Weight decay pulls :math:`\rho` to 0, a variance of 0.69.

    Code: ``HobbitLong/RepDistiller:distiller_zoo/VID.py``, equal to this. The paper sums over channels and positions
        where this takes the mean: the same up to a factor of the term's weight.

    Example:
        >>> student = Outputs(torch.zeros(2, 10), {"layer2": torch.randn(2, 3, 8, 8)})
        >>> teacher = Outputs(torch.zeros(2, 10), {"layer2": torch.randn(2, 5, 4, 4)})
        >>> loss = VID(layers={"layer2": "layer2"})
        >>> loss.build(student, teacher)
        >>> loss(student, teacher, torch.tensor([0, 3])).shape
        torch.Size([])
    """

    def __init__(self, variance: float = 5.0, eps: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require(eps > 0, "eps", eps, "positive")
        require(variance > eps, "variance", variance, f"larger than eps, {eps}")
        self.variance = variance
        self.eps = eps
        self.regressors = nn.ModuleList()

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Create one regressor for each pair of layers, on the device of the student's maps.

        Args:
            student: What the student said about the example batch.
            teacher: What the teacher said about it.
        """
        regressors = []
        for s, t in self.pairs(student, teacher):
            regressor = GaussianRegressor(as_map(s).shape[1], as_map(t).shape[1], self.variance, self.eps)
            # a dry run under autocast gives half-precision maps: parameters stay in the default precision
            dtype = torch.promote_types(s.dtype, torch.get_default_dtype())
            regressors.append(regressor.to(device=s.device, dtype=dtype))
        self.regressors = nn.ModuleList(regressors)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Negative log-likelihood of the teacher's maps, summed over the pairs."""
        if len(self.regressors) != len(self.layers):
            raise InputError("VID must be built with the outputs of a dry run before it is called, got no build()")
        terms = []
        for regressor, (s, t) in zip(self.regressors, self.pairs(student, teacher), strict=True):
            s, t = same_size(as_map(s), as_map(t))
            mean, variance = regressor(s)
            terms.append(vid(mean, t, variance))
        return torch.stack(terms).sum()
