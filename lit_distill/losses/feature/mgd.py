"""Masked generative distillation: a part of the student's map is enough to make the teacher's of."""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses.base import FeatureLoss
from lit_distill.losses.checks import check_same_shape, require
from lit_distill.losses.draws import Draws
from lit_distill.losses.feature.maps import aligned
from lit_distill.losses.precision import fp32
from lit_distill.losses.views import as_map


@fp32
def mgd(generated: Tensor, teacher: Tensor) -> Tensor:
    r"""Sum of the squared differences of two maps, averaged over the samples alone.

    .. math:: \frac{1}{B} \sum_{bchw} (G - f^t)^2

    Args:
        generated: What was made of the student's masked map, ``(B, C, H, W)``.
        teacher: Map of the teacher, ``(B, C, H, W)``.

    Returns:
        A scalar.

    Raises:
        InputError: If the shapes of the maps differ.

    Example:
        >>> mgd(torch.ones(2, 3, 4, 4), torch.zeros(2, 3, 4, 4))
        tensor(48.)
    """
    check_same_shape(generated, teacher, "maps")
    return F.mse_loss(generated, teacher, reduction="sum") / len(teacher)


def keep_mask(
    like: Tensor, ratio: float, mask: Literal["channels", "positions"], generator: torch.Generator | None = None
) -> Tensor:
    """1 for what of a map is kept and 0 for what is masked, independently for each sample.

    Args:
        like: The map, ``(B, C, H, W)``.
        ratio: Probability of each channel or position to be masked.
        mask: Whether channels or positions are masked.
        generator: Where the random numbers come from, on the device of the map. Default: torch's global one.

    Returns:
        ``(B, C, 1, 1)`` or ``(B, 1, H, W)``.

    Example:
        >>> keep_mask(torch.zeros(2, 3, 4, 5), 0.5, "positions").shape
        torch.Size([2, 1, 4, 5])
    """
    batch, channels, height, width = like.shape
    shape = (batch, channels, 1, 1) if mask == "channels" else (batch, 1, height, width)
    return (torch.rand(shape, generator=generator, device=like.device) >= ratio).to(like.dtype)


class MaskedGenerator(nn.Module):
    """A 1x1 convolution where channels differ, the mask, and two 3x3 convolutions with a ReLU between them.

    Args:
        channels: Channels of the student's map.
        teacher_channels: Channels of the teacher's map.

    Example:
        >>> MaskedGenerator(3, 5)(torch.zeros(2, 3, 4, 4), torch.ones(2, 5, 1, 1)).shape
        torch.Size([2, 5, 4, 4])
    """

    def __init__(self, channels: int, teacher_channels: int) -> None:
        super().__init__()
        differ = channels != teacher_channels
        self.align = nn.Conv2d(channels, teacher_channels, 1) if differ else nn.Identity()
        self.generation = nn.Sequential(
            nn.Conv2d(teacher_channels, teacher_channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(teacher_channels, teacher_channels, 3, padding=1),
        )

    def forward(self, student: Tensor, mask: Tensor) -> Tensor:
        """``(B, C_s, H, W)`` and a mask that broadcasts to ``(B, C_t, H, W)``, to ``(B, C_t, H, W)``."""
        generated: Tensor = self.generation(self.align(student) * mask)
        return generated


class MGD(FeatureLoss):
    r"""From a masked map of the student a small network generates the teacher's whole map.

    Paper: Yang et al., Masked Generative Distillation, ECCV 2022, https://arxiv.org/abs/2205.01529

    .. math:: \sum_{(s, t)} \frac{1}{B} \sum_{bchw} \big( \mathcal{G}(M \odot A f^s) - f^t \big)^2

    with a 1x1 convolution A where channels differ, a mask M of zeros and ones that is drawn anew at each step, and the
    generator :math:`\mathcal{G}` of two 3x3 convolutions with a ReLU between them. A and :math:`\mathcal{G}` are
    trained with the student and dropped after. What is kept is not scaled up, and nothing is masked in eval mode.

    On ImageNet the authors mask 15 % of the channels of the last map, with weight 7e-5. For detection and segmentation
    they mask positions, as the paper has it: 65 % with weight 2e-5, or 45 % with weight 5e-7 for two-stage detectors.

    The numbers come from a generator of its own, whose state follows from ``seed``, the rank and how often a mask was
    drawn. Checkpoints hold that count: a resumed run draws what an uninterrupted one would have drawn.

    Args:
        ratio: Probability of a channel or position to be masked, from 0 to below 1.
        mask: Whether ``channels`` or ``positions`` are masked.
        seed: Another seed, other masks.
        layers: Student module path to teacher module path. Default: the last stage of each network.

    Shape:
        Maps ``(B, D, H, W)``, tokens ``(B, N, D)`` without their prefix, or vectors ``(B, D)``, of any size on either
        side: the larger map is averaged to the size of the smaller one. Output a scalar, summed over the pairs.

    Raises:
        InputError: If ``ratio`` lies outside [0, 1), ``mask`` is none of the two, or the loss is called before
            :meth:`build`.

    Traps:
        - The sum is divided by the number of samples alone: hence the tiny weights, which belong to large maps (7e-5
          on 2048 channels of 7 by 7 is 7 times the mean). NVIDIA's Model Optimizer takes the mean with weight 1.
        - CPU and CUDA generators draw different numbers from one seed.

    Code: ``yzd-v/cls_KD:mmcls/models/dis_losses/mgd.py`` (channels) and ``yzd-v/MGD`` (positions), equal to this.

    Example:
        >>> student = Outputs(torch.zeros(2, 10), {"layer4": torch.randn(2, 3, 4, 4)})
        >>> teacher = Outputs(torch.zeros(2, 10), {"layer4": torch.randn(2, 5, 4, 4)})
        >>> loss = MGD(layers={"layer4": "layer4"}, weight=7e-5)
        >>> loss.build(student, teacher)
        >>> loss(student, teacher, torch.tensor([0, 3])).shape
        torch.Size([])
    """

    default_view = "last"

    def __init__(
        self, ratio: float = 0.15, mask: Literal["channels", "positions"] = "channels", seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        require(0 <= ratio < 1, "ratio", ratio, "from 0 to below 1")
        require(mask in ("channels", "positions"), "mask", repr(mask), "channels or positions")
        self.ratio = ratio
        self.mask: Literal["channels", "positions"] = mask
        self.draws = Draws(seed)
        self.generators = nn.ModuleList()

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Create one generator for each pair of layers, on the device of the student's maps.

        Args:
            student: What the student said about the example batch.
            teacher: What the teacher said about it.
        """
        generators = []
        for s, t in self.pairs(student, teacher):
            generator = MaskedGenerator(as_map(s).shape[1], as_map(t).shape[1])
            # a dry run under autocast gives half-precision maps: parameters stay in the default precision
            dtype = torch.promote_types(s.dtype, torch.get_default_dtype())
            generators.append(generator.to(device=s.device, dtype=dtype))
        self.generators = nn.ModuleList(generators)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Squared error of the generated maps, summed over the pairs."""
        if len(self.generators) != len(self.layers):
            raise InputError("MGD must be built with the outputs of a dry run before it is called, got no build()")
        terms = []
        for generator, (s, t) in zip(self.generators, self.pairs(student, teacher), strict=True):
            s, t = aligned(as_map(s), as_map(t))
            ratio = self.ratio if self.training else 0.0
            random = self.draws.generator(t.device) if self.training else None
            terms.append(mgd(generator(s, keep_mask(t, ratio, self.mask, random)), t))
        return torch.stack(terms).sum()
