"""Overhaul of feature distillation: maps before their ReLU, negative values down to a margin alone."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from lit_distill.core.outputs import Outputs
from lit_distill.core.projectors import BatchNormProjector
from lit_distill.core.taps import submodule
from lit_distill.errors import InputError
from lit_distill.losses.base import FeatureLoss
from lit_distill.losses.checks import check_same_shape, require
from lit_distill.losses.feature.norm_before import norm_before
from lit_distill.losses.known_gradient import Gradient, with_gradient
from lit_distill.losses.precision import fp32
from lit_distill.losses.views import as_map, same_size

# The authors' on CIFAR, which brings a sum over a map to the size of a cross entropy.
SCALE = 1e-3


def margins(scale: Tensor, shift: Tensor) -> Tensor:
    r"""What a channel of a BatchNorm gives on average where it is negative.

    .. math:: m = \mathrm{E}[x \mid x < 0] = \beta - |\gamma| \, \frac{\phi(\beta / |\gamma|)}{\Phi(-\beta / |\gamma|)},
        \qquad x \sim N(\beta, \gamma^2)

    with density :math:`\phi` and distribution :math:`\Phi` of the standard normal; :math:`-3 |\gamma|` where at most
    one value in a thousand is negative.

    Args:
        scale: :math:`\gamma` of each channel, ``(C,)``.
        shift: :math:`\beta` of each channel, ``(C,)``.

    Returns:
        The margins, ``(C,)``.

    Example:
        >>> margins(torch.tensor([1.0, 1.0]), torch.tensor([0.0, 5.0]))
        tensor([-0.7979, -3.0000])
    """
    deviation, mean = scale.double().abs(), shift.double()
    ratio = mean / deviation
    negative = torch.special.ndtr(-ratio)
    density = (-ratio.square() / 2).exp() / math.sqrt(2 * math.pi)
    return torch.where(negative > 1e-3, mean - deviation * density / negative, -3 * deviation).to(scale.dtype)


@fp32
def ofd(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    r"""Squared difference of two maps before their ReLU, where it matters behind the ReLU.

    .. math:: \frac{1}{B} \sum (f^s - t)^2 \, [f^s > t \text{ or } t > 0], \qquad t = \max(f^t, m)

    Args:
        student: Map of the student after the connector, ``(B, C, H, W)``.
        teacher: Map of the teacher, ``(B, C, H, W)``.
        margin: Smallest target of each channel, ``(C,)``.

    Returns:
        A scalar, the sum over all entries of a sample, averaged over samples.

    Raises:
        InputError: If the shapes of the maps differ.

    Example:
        >>> teacher = torch.tensor([2.0, -9.0, -9.0]).view(1, 1, 1, 3)
        >>> ofd(torch.tensor([1.0, 0.0, -5.0]).view(1, 1, 1, 3), teacher, torch.tensor([-3.0]))
        tensor(10.)
    """
    check_same_shape(student, teacher, "maps")
    return with_gradient(_partial_error, student, teacher, margin)


def _partial_error(student: Tensor, teacher: Tensor, margin: Tensor) -> tuple[Tensor, Gradient]:
    target = torch.maximum(teacher, margin.view(-1, 1, 1))
    gap = student - target
    # where the target is not positive a gap below 0 does not count
    gap = torch.maximum(gap, gap * (target > 0))
    return gap.square().sum() / len(student), lambda: gap.mul_(2 / len(student))


class MarginConnector(nn.Module):
    """A 1x1 convolution and a BatchNorm from the student's channels to the teacher's, and the teacher's margins.

    Args:
        student: Map of the student, ``(B, C_s, H, W)``.
        teacher: Map of the teacher, ``(B, C_t, H, W)``.
        norm: The teacher's BatchNorm.
    """

    def __init__(self, student: Tensor, teacher: Tensor, norm: nn.Module) -> None:
        super().__init__()
        self.projector = BatchNormProjector()
        self.projector.build(student, teacher)
        margin = margins(norm.weight.detach(), norm.bias.detach())  # type: ignore[operator]
        # not in checkpoints: they come from the teacher
        self.register_buffer("margin", margin.to(student.device), persistent=False)

    def forward(self, student: Tensor) -> Tensor:
        """``(B, C_s, H, W)`` to ``(B, C_t, H, W)``."""
        return self.projector(student)


class OFD(FeatureLoss):
    r"""Connected maps of the student reach the teacher's before the ReLU; below a margin nothing is asked.

    Paper: Heo et al., A Comprehensive Overhaul of Feature Distillation, ICCV 2019, https://arxiv.org/abs/1904.01866

    .. math:: \frac{1}{1000} \sum_{i=1}^n \frac{1}{2^{n-i}} \frac{1}{B} \sum (s_i - t_i)^2 \, [s_i > t_i \text{ or }
        t_i > 0], \qquad s = \mathrm{BN}(\mathrm{conv}(f^s)), \quad t = \max(f^t, m)

    A deeper pair of the n counts twice as much as the one before. The margin :math:`m_c < 0` of a channel is the mean
    of its negative values, known from the teacher's BatchNorm before the ReLU (:func:`margins`). The connectors are
    trained with the student and dropped after. The authors have weight 1 on CIFAR-100 and, as a sum over positions
    grows with the image, 0.1 on ImageNet, beside cross entropy with weight 1.

    Args:
        norms: Paths of the teacher's BatchNorms, one for each pair of layers. Default: the last one before each
            activation, found from the order of the teacher's modules.
        layers: Student module path to teacher module path, each before its activation, from shallow to deep. Default:
            the inputs of the last activation of each stage, paired by their position.

    Shape:
        Maps ``(B, D, H, W)``, tokens ``(B, N, D)`` without their prefix, or vectors ``(B, D)``: the larger map is
        averaged to the size of the smaller one. Output a scalar, summed over the pairs.

    Raises:
        InputError: If a BatchNorm is not found, has no scale or other channels than the teacher's map, ``norms`` and
            ``layers`` differ in number, or the loss is called before :meth:`attach` and :meth:`build`.

    Traps:
        - A sum over channels and positions, not a mean: larger maps need a smaller weight.
        - A map after its ReLU has no negative values: with it the margins mean nothing.
        - mdistiller leaves out the factor 1/1000.

    Code: ``clovaai/overhaul-distillation:CIFAR-100/distiller.py`` and ``train_with_distillation.py``, whose value for
        the same two maps is this one. The teacher differs: theirs runs in train mode, so that its maps depend on the
        batch and its running statistics move (as in mdistiller); here it stays in eval mode, as it was trained to
        answer.

    Example:
        >>> from lit_distill.models import resnet8
        >>> student = Outputs(torch.zeros(2, 10), {"norm": torch.randn(2, 3, 8, 8)})
        >>> teacher = Outputs(torch.zeros(2, 10), {"layer2.0.relu2:input": torch.randn(2, 32, 4, 4)})
        >>> loss = OFD(layers={"norm": "layer2.0.relu2:input"})
        >>> loss.attach(nn.Identity(), resnet8())
        >>> loss.build(student, teacher)
        >>> loss(student, teacher, torch.tensor([0, 3])).shape
        torch.Size([])
    """

    default_view = "pre_activation"

    def __init__(self, norms: list[str] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.norm_paths = norms
        self.norms: tuple[nn.Module, ...] = ()
        self.connectors = nn.ModuleList()

    def attach(self, student: nn.Module, teacher: nn.Module) -> None:
        """Find the teacher's BatchNorms.

        Args:
            student: Not asked.
            teacher: The whole teacher.
        """
        paths = list(self.layers.values())
        found: list[nn.Module | None]
        if self.norm_paths is None:
            found = [norm_before(teacher, path) for path in paths]
        else:
            require(len(self.norm_paths) == len(paths), "norms", self.norm_paths, f"{len(paths)} paths, one a pair")
            found = [submodule(teacher, path, "teacher") for path in self.norm_paths]
        for path, norm in zip(self.norm_paths or paths, found, strict=True):
            if getattr(norm, "weight", None) is None or getattr(norm, "bias", None) is None:
                kind = "none" if norm is None else f"a {type(norm).__name__} without scale and shift"
                raise InputError(f"norms: {kind} found for {path} of the teacher; accepted are paths of its BatchNorms")
        self.norms = tuple(norm for norm in found if norm is not None)

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Create one connector for each pair of layers, and its margins, on the device of the student's maps.

        Args:
            student: What the student said about the example batch.
            teacher: What the teacher said about it.
        """
        if len(self.norms) != len(self.layers):
            raise InputError("OFD must meet the two networks before it is built, got no attach()")
        pairs = zip(self.layers.values(), self.norms, self.pairs(student, teacher), strict=True)
        connectors = []
        for path, norm, (s, t) in pairs:
            channels, known = as_map(t).shape[1], len(norm.weight)  # type: ignore[arg-type]
            require(channels == known, "norms", f"one of {known} channels", f"one of {channels} channels for {path}")
            connectors.append(MarginConnector(as_map(s), as_map(t), norm))
        self.connectors = nn.ModuleList(connectors)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Squared error above the margins, summed over the pairs."""
        if len(self.connectors) != len(self.layers):
            raise InputError("OFD must be built with the outputs of a dry run before it is called, got no build()")
        total = student.logits.new_zeros(())
        for connector, (s, t) in zip(self.connectors, self.pairs(student, teacher), strict=True):
            s, t = same_size(as_map(s), as_map(t))
            total = total / 2 + ofd(connector(s), t, connector.get_buffer("margin"))
        return SCALE * total
