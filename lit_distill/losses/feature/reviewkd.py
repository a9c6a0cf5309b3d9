"""Knowledge review: deep layers of the student help its shallow ones to reach the teacher's."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses.base import FeatureLoss
from lit_distill.losses.checks import check_same_shape, require
from lit_distill.losses.layer_pairs import layer_pairs
from lit_distill.losses.precision import fp32
from lit_distill.losses.views import as_map

# Heights and widths that maps are compared in, besides their own.
SCALES = (4, 2, 1)


@fp32
def hierarchical_context(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Mean squared difference of two maps, averaged over several resolutions (the HCL of the paper).

    .. math:: \frac{\sum_k 2^{-k} \, \mathrm{mean} \big( (P_k f^s - P_k f^t)^2 \big)}{\sum_k 2^{-k}}

    :math:`P_0` leaves the map as it is; the others average it to 4 by 4, 2 by 2 and 1 by 1, as far as that is smaller.

    Args:
        student: Map of the student, ``(B, C, H, W)``.
        teacher: Map of the teacher, ``(B, C, H, W)``.

    Returns:
        A scalar.

    Raises:
        InputError: If the shapes of the maps differ.

    Example:
        >>> hierarchical_context(torch.ones(2, 3, 8, 8), torch.zeros(2, 3, 8, 8))
        tensor(1.)
    """
    check_same_shape(student, teacher, "maps")
    # what pooling is linear in may be pooled once
    difference = student - teacher
    pooled = [F.adaptive_avg_pool2d(difference, side) for side in SCALES if side < difference.shape[2]]
    factors = [0.5**k for k in range(len(pooled) + 1)]
    terms = [factor * x.square().mean() for factor, x in zip(factors, [difference, *pooled], strict=True)]
    return torch.stack(terms).sum() / sum(factors)


class AttentionFusion(nn.Module):
    """Merges a layer of the student with what came from its deeper ones, and predicts a layer of the teacher.

    Two attention maps, one number a position each, say how much counts of the layer and how much of the rest.

    Args:
        channels: Channels of the student's map.
        middle: Channels of what is passed from layer to layer.
        teacher_channels: Channels of the teacher's map.
        fuse: Whether anything comes from deeper layers.
    """

    def __init__(self, channels: int, middle: int, teacher_channels: int, fuse: bool) -> None:
        super().__init__()
        enter = nn.Conv2d(channels, middle, 1, bias=False)
        leave = nn.Conv2d(middle, teacher_channels, 3, padding=1, bias=False)
        for convolution in (enter, leave):
            nn.init.kaiming_uniform_(convolution.weight, a=1)
        self.enter = nn.Sequential(enter, nn.BatchNorm2d(middle))
        self.leave = nn.Sequential(leave, nn.BatchNorm2d(teacher_channels))
        self.attention = nn.Sequential(nn.Conv2d(2 * middle, 2, 1), nn.Sigmoid()) if fuse else None

    def forward(self, x: Tensor, deeper: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The prediction of the teacher's map, and what is passed on to the next shallower layer.

        Args:
            x: Map of the student, ``(B, C_s, H, W)``.
            deeper: What the next deeper layer passed on, ``(B, M, H', W')``; None for the deepest.
            size: Height and width of the teacher's map.
        """
        x = self.enter(x)
        if self.attention is not None and deeper is not None:
            deeper = F.interpolate(deeper, x.shape[2:], mode="nearest")
            own, other = self.attention(torch.cat([x, deeper], 1)).split(1, 1)
            x = x * own + deeper * other
        if x.shape[2:] != size:
            x = F.interpolate(x, size, mode="nearest")
        return self.leave(x), x


class ReviewKD(FeatureLoss):
    r"""Every layer of the teacher teaches the student's layer of its depth and all deeper ones.

    Paper: Chen et al., Distilling Knowledge via Knowledge Review, CVPR 2021, https://arxiv.org/abs/2104.09044

    .. math:: \sum_{i=1}^n \mathrm{HCL} \big( \mathrm{out}_i(r_i), f^t_i \big), \qquad
        r_i = z_i \, \mathrm{in}_i(f^s_i) + z'_i \, \mathrm{up}(r_{i+1}), \quad r_n = \mathrm{in}_n(f^s_n)

    From the deepest layer n to the shallowest, each layer of the student is merged with what the deeper ones have
    gathered, by two attention maps z that depend on both (:class:`AttentionFusion`), and compared with the teacher's in
    several resolutions (HCL, :func:`hierarchical_context`). Both ``in`` and ``out`` are a convolution and a BatchNorm.
    All of that is trained with the student and dropped after.

    On CIFAR-100 the authors have weight 5 beside cross entropy with weight 1, but 0.6 for ResNet-56 to ResNet-20, 1 for
    ResNet-110 to ResNet-32 and 8 for ShuffleNets, warmed up over 20 of 240 epochs (callback ``WarmUp``); on ImageNet 1,
    or 8 for MobileNet, over the first epoch.

    Args:
        middle: Channels of what is passed from layer to layer. Default: as many as the student's deepest layer has,
            at most 512; the authors take 256 for MobileNet on ImageNet.
        layers: Student module path to teacher module path, from shallow to deep. Default: the student's stages, the
            teacher's before their last activation, paired by their position, and what both classifiers see.

    Shape:
        Maps ``(B, D, H, W)`` of any size in each network, tokens ``(B, N, D)`` without their prefix, or vectors
        ``(B, D)``, which are maps of one position; output a scalar, summed over the pairs.

    Raises:
        InputError: If ``middle`` is not positive, or the loss is called before :meth:`build`.

    Traps:
        - The order of ``layers`` matters: what is deep must come last.
        - What is passed on has the teacher's size, not yet the teacher's channels.
        - mdistiller ignores its setting of ``middle``.
        - BatchNorm needs batches: the vector is a map of one position, so that one sample raises in training.

    Code: ``dvlab-research/ReviewKD:CIFAR-100/model/reviewkd.py``, equal to the paper.

    Example:
        >>> student = Outputs(torch.zeros(2, 10), {"1": torch.randn(2, 3, 8, 8), "2": torch.randn(2, 6)})
        >>> teacher = Outputs(torch.zeros(2, 10), {"1": torch.randn(2, 5, 4, 4), "2": torch.randn(2, 9)})
        >>> loss = ReviewKD(layers={"1": "1", "2": "2"}, weight=5.0)
        >>> loss.build(student, teacher)
        >>> loss(student, teacher, torch.tensor([0, 3])).shape
        torch.Size([])
    """

    def __init__(self, middle: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require(middle is None or middle > 0, "middle", middle, "positive")
        self.middle = middle
        self.fusions = nn.ModuleList()

    def choose_layers(self, student: nn.Module, teacher: nn.Module) -> None:
        """Pair the stages of both networks, and what their classifiers see, if no layers were given.

        Args:
            student: The student itself.
            teacher: The whole teacher, frozen.
        """
        if not self.layers:
            stages = layer_pairs(student, teacher, "stages", "pre_activation", self.teacher)
            self.layers = stages | layer_pairs(student, teacher, "pooled", "pooled", self.teacher)

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Create a fusion for each pair of layers, on the device of the student's maps.

        Args:
            student: What the student said about the example batch.
            teacher: What the teacher said about it.
        """
        maps = [(as_map(s), as_map(t)) for s, t in self.pairs(student, teacher)]
        deepest = maps[-1][0]
        middle = self.middle or min(512, deepest.shape[1])
        last = len(maps) - 1
        fusions = [AttentionFusion(s.shape[1], middle, t.shape[1], fuse=i < last) for i, (s, t) in enumerate(maps)]
        # a dry run under autocast gives half-precision maps: parameters stay in the default precision
        dtype = torch.promote_types(deepest.dtype, torch.get_default_dtype())
        self.fusions = nn.ModuleList(fusions).to(device=deepest.device, dtype=dtype)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Differences of the predicted maps in all resolutions, summed over the pairs."""
        if len(self.fusions) != len(self.layers):
            raise InputError("ReviewKD must be built with the outputs of a dry run before it is called, got no build()")
        deeper, terms = None, []
        for fusion, (s, t) in zip(reversed(self.fusions), reversed(self.pairs(student, teacher)), strict=True):
            wanted = as_map(t)
            predicted, deeper = fusion(as_map(s), deeper, wanted.shape[2:])
            terms.append(hierarchical_context(predicted, wanted))
        return torch.stack(terms).sum()
