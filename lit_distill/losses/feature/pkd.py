"""Pearson correlation distillation: channels respond alike, up to their scale and offset."""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.losses.base import FeatureLoss
from lit_distill.losses.checks import check_same_shape, require
from lit_distill.losses.feature.bridges import Bridges
from lit_distill.losses.known_gradient import Gradient, with_gradient
from lit_distill.losses.precision import fp32

# Added to standard deviations, as in the authors' code.
EPS = 1e-6


@fp32
def pkd(student: Tensor, teacher: Tensor, mode: Literal["paper", "code"] = "code") -> Tensor:
    r"""One minus the correlation of two maps' channels; the formula, and what the modes are, stands in :class:`PKD`.

    Args:
        student: Map of the student, ``(B, C, H, W)``.
        teacher: Map of the teacher, ``(B, C, H, W)``.
        mode: Formula of the paper or of the released code.

    Returns:
        A scalar.

    Raises:
        InputError: If the shapes of the maps differ, or a channel has one value only.

    Example:
        >>> x = torch.randn(2, 3, 4, 4)
        >>> round(pkd(2 * x + 1, x).item(), 4), round(pkd(-x, x, mode="paper").item(), 4)
        (0.0, 2.0)
    """
    check_same_shape(student, teacher, "maps")
    values = student.numel() // student.shape[1]
    require(values > 1, "student and teacher maps", tuple(student.shape), "of more than one value a channel")
    half = with_gradient(_half_error, student, teacher)
    return half * values / (values - 1) if mode == "paper" else half


def _half_error(student: Tensor, teacher: Tensor) -> tuple[Tensor, Gradient]:
    (s, std), (t, _) = _standardised(student), _standardised(teacher)
    difference = s - t

    def gradient() -> Tensor:
        # means of the difference are 0, so that what comes through the mean of a channel is, too
        along = (difference * s).sum((0, 2, 3), keepdim=True) / (student.numel() // student.shape[1] - 1)
        direct = student.numel() * (std + EPS)
        return difference.div_(direct).addcmul_(s, along / (student.numel() * std), value=-1)

    return difference.square().mean() / 2, gradient


def _standardised(x: Tensor) -> tuple[Tensor, Tensor]:
    """Each channel with mean 0 and (unbiased) standard deviation 1 over the samples and positions of the batch.

    With these deviations, infinite for a channel that is the same everywhere but for rounding: divided by infinity it
    is zero, and gets no gradient; divided by EPS it would get one 10^6 times as large as others.
    """
    mean = x.mean((0, 2, 3), keepdim=True)
    centred = x - mean
    # in two passes, which take a tenth of torch.std_mean's time along these dimensions
    variance = centred.square().sum((0, 2, 3), keepdim=True) / (x.numel() // x.shape[1] - 1)
    info = torch.finfo(x.dtype)
    std = variance.clamp(min=info.tiny).sqrt()
    std = std.masked_fill((variance == 0) | (std < 4 * info.eps * mean.abs()), torch.inf)
    return centred / (std + EPS), std


class PKD(FeatureLoss):
    r"""Each channel of the student correlates with the teacher's over the positions of a batch.

    Paper: Cao et al., PKD: General Distillation Framework for Object Detectors via Pearson Correlation Coefficient,
        NeurIPS 2022, https://arxiv.org/abs/2207.02039

    .. math:: \sum_{(s, t)} \frac{1}{2} \, \mathrm{mean} \big( (\hat f^s - \hat f^t)^2 \big), \qquad
        \hat f_c = \frac{f_c - \mu_c}{\sigma_c + 10^{-6}}

    with mean and unbiased standard deviation of each channel over the n samples and positions of the batch. That is
    :math:`(1 - r) (n - 1) / n` for the correlation r, averaged over channels (mode ``code``); mode ``paper`` is
    :math:`1 - r`. Scale and offset of the student's channels are free. Where the numbers of channels differ, which
    those of detectors' pyramids do not, a 1x1 convolution on the student's map is trained with the student and dropped
    after. The authors take the levels of the pyramid, with weight 10 for one teacher and student of one family.

    Args:
        mode: Formula of the ``paper`` or of the released ``code``; they differ where a batch has few positions.
        resize: Which map is interpolated (bilinear) to the size of the other, ``student`` or ``teacher``.
        layers: Student module path to teacher module path. Default: the ends of the stages, paired by their position.

    Shape:
        Maps ``(B, D, H, W)``, tokens ``(B, N, D)`` without their prefix, or vectors ``(B, D)``, of any size on either
        side; output a scalar, summed over the pairs.

    Raises:
        InputError: If ``mode`` or ``resize`` is none of the two, a channel has one value only, or the loss is called
            before :meth:`build`.

    Traps:
        - The value depends on the batch: means and deviations are those of the samples on a device.
        - A larger student is sampled by the interpolation, not averaged; resizing comes before the standardisation.
        - The gradient grows as the student's deviation shrinks. A channel that is the same everywhere gets none.

    Code: ``open-mmlab/mmrazor:mmrazor/models/losses/pkd_loss.py`` (by the authors), equal to mode ``code``.

    Example:
        >>> student = Outputs(torch.zeros(2, 10), {"layer2": torch.randn(2, 3, 8, 8)})
        >>> teacher = Outputs(torch.zeros(2, 10), {"layer2": torch.randn(2, 5, 4, 4)})
        >>> loss = PKD(layers={"layer2": "layer2"}, weight=10.0)
        >>> loss.build(student, teacher)
        >>> loss(student, teacher, torch.tensor([0, 3])).shape
        torch.Size([])
    """

    def __init__(
        self,
        mode: Literal["paper", "code"] = "code",
        resize: Literal["student", "teacher"] = "student",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        require(mode in ("paper", "code"), "mode", repr(mode), "paper or code")
        require(resize in ("student", "teacher"), "resize", repr(resize), "student or teacher")
        self.mode: Literal["paper", "code"] = mode
        self.resize = resize
        self.bridges = Bridges()

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Create the convolutions where the numbers of channels differ, on the device of the student's maps.

        Args:
            student: What the student said about the example batch.
            teacher: What the teacher said about it.
        """
        self.bridges.build(self.pairs(student, teacher))

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """One minus the correlation of the channels, summed over the pairs."""
        terms = []
        for s, t in self.bridges(self.pairs(student, teacher)):
            if self.resize == "student":
                s = _interpolated(s, t)
            else:
                t = _interpolated(t, s)
            terms.append(pkd(s, t, self.mode))
        return torch.stack(terms).sum()


def _interpolated(x: Tensor, like: Tensor) -> Tensor:
    """A map in the height and width of another one, sampled as in the authors' code."""
    if x.shape[2:] == like.shape[2:]:
        return x
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)
