"""Hints: the student regresses an intermediate activation of the teacher."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses.base import FeatureLoss
from lit_distill.losses.checks import check_same_shape
from lit_distill.losses.precision import fp32


@fp32
def fitnet(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Mean squared difference of two activations.

    .. math:: \mathrm{mean} \big( (f^s - f^t)^2 \big)

    Args:
        student: Activation of the student after the regressor, ``(B, C, H, W)``.
        teacher: Activation of the teacher, ``(B, C, H, W)``.

    Returns:
        A scalar, the mean over all entries.

    Example:
        >>> fitnet(torch.ones(2, 3, 4, 4), torch.zeros(2, 3, 4, 4))
        tensor(1.)
    """
    check_same_shape(student, teacher, "maps")
    return F.mse_loss(student, teacher)


class ConvRegressor(nn.Module):
    """Convolution, BatchNorm and ReLU from the student's shape to the teacher's.

    Half the height and width is a convolution of size 3 and stride 2, double a transposed convolution of size
    4 and stride 2, any smaller size a valid convolution of size ``1 + H_s - H_t``.

    Args:
        student: Shape of the student's map, ``(C, H, W)``.
        teacher: Shape of the teacher's map, ``(C, H, W)``.

    Raises:
        InputError: If no such convolution leads from the one to the other.

    Example:
        >>> ConvRegressor((3, 8, 8), (5, 4, 4))(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 5, 4, 4])
    """

    def __init__(self, student: tuple[int, int, int], teacher: tuple[int, int, int]) -> None:
        super().__init__()
        (student_channels, *small), (channels, *large) = student, teacher
        self.conv: nn.Conv2d | nn.ConvTranspose2d
        if small == [2 * size for size in large]:
            self.conv = nn.Conv2d(student_channels, channels, kernel_size=3, stride=2, padding=1)
        elif [2 * size for size in small] == large:
            self.conv = nn.ConvTranspose2d(student_channels, channels, kernel_size=4, stride=2, padding=1)
        elif small[0] >= large[0] and small[1] >= large[1]:
            self.conv = nn.Conv2d(student_channels, channels, (1 + small[0] - large[0], 1 + small[1] - large[1]))
        else:
            raise InputError(
                "the student's map must be half as large as the teacher's, as large or larger, "
                f"got (C, H, W) = {student} and {teacher}"
            )
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, student: Tensor) -> Tensor:
        """``(B, C_s, H_s, W_s) -> (B, C_t, H_t, W_t)``."""
        return F.relu(self.bn(self.conv(student)))


class FitNet(FeatureLoss):
    r"""A regressor on the student's map predicts the teacher's.

    Paper: Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015, https://arxiv.org/abs/1412.6550

    .. math:: \sum_{(s, t)} \mathrm{mean} \Big( \big( \mathrm{ReLU}(\mathrm{BN}(\mathrm{conv}(f^s)))
        - f^t \big)^2 \Big)

    The regressors are trained with the student and dropped after. The benchmark of CRD on CIFAR-100 takes one
    pair, the output of the second stage, with weight 100.

    Args:
        layers: Student module path to teacher module path, each the path of a map after its ReLU. Default: the stage in
            the middle of each network.

    Shape:
        Maps ``(B, C_s, H_s, W_s)`` and ``(B, C_t, H_t, W_t)``; output a scalar, summed over the pairs.

    Raises:
        InputError: If an activation is not a map, if no regressor leads from one map to the other, or if the
            loss is called before :meth:`build`.

    Traps:
        - The regressor ends with a ReLU: a teacher's map that holds negative values cannot be reached.
        - BatchNorm needs batches: one sample with a map of size 1 raises in training.

    Code: ``HobbitLong/RepDistiller:distiller_zoo/FitNet.py`` and ``models/util.py`` (ConvReg), equal to this.
        The paper trains the student up to the hint in a stage of its own, with a regressor without BatchNorm
        and half the sum of squares.

    Example:
        >>> student = Outputs(torch.zeros(2, 10), {"layer2": torch.randn(2, 3, 8, 8)})
        >>> teacher = Outputs(torch.zeros(2, 10), {"layer2": torch.randn(2, 5, 8, 8)})
        >>> loss = FitNet(layers={"layer2": "layer2"}, weight=100.0)
        >>> loss.build(student, teacher)
        >>> loss(student, teacher, torch.tensor([0, 3])).shape
        torch.Size([])
    """

    default_view = "middle"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.regressors = nn.ModuleList()

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Create one regressor for each pair of layers, on the device of the student's maps.

        Args:
            student: What the student said about the example batch.
            teacher: What the teacher said about it.
        """
        regressors = []
        for names, (s, t) in zip(self.layers.items(), self.pairs(student, teacher), strict=True):
            if s.dim() != 4 or t.dim() != 4:
                raise InputError(
                    f"layers must name maps (B, C, H, W) for FitNet, got {names[0]} {tuple(s.shape)} and "
                    f"{names[1]} {tuple(t.shape)}"
                )
            # a dry run under autocast gives half-precision maps: parameters stay in the default precision
            dtype = torch.promote_types(s.dtype, torch.get_default_dtype())
            regressor = ConvRegressor((s.shape[1], s.shape[2], s.shape[3]), (t.shape[1], t.shape[2], t.shape[3]))
            regressors.append(regressor.to(device=s.device, dtype=dtype))
        self.regressors = nn.ModuleList(regressors)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Squared error of the regressed maps, summed over the pairs."""
        if len(self.regressors) != len(self.layers):
            raise InputError("FitNet must be built with the outputs of a dry run before it is called, got no build()")
        pairs = self.pairs(student, teacher)
        terms = [fitnet(net(s), t) for net, (s, t) in zip(self.regressors, pairs, strict=True)]
        return torch.stack(terms).sum()
