"""Hidden states: the student's activations equal the teacher's, or point where they do."""

from copy import deepcopy
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.core.projectors import LinearProjector, Projector
from lit_distill.errors import InputError
from lit_distill.losses.base import FeatureLoss
from lit_distill.losses.checks import check_same_shape, require
from lit_distill.losses.known_gradient import Gradient, with_gradient
from lit_distill.losses.precision import fp32
from lit_distill.losses.views import as_map, same_size

Distance = Literal["mse", "cosine"]


@fp32
def hidden_state(student: Tensor, teacher: Tensor, distance: Distance = "mse") -> Tensor:
    r"""Mean squared difference of two activations, or one less their cosine.

    The formulas stand in :class:`HiddenState`.

    Args:
        student: Activation of the student behind the projector, ``(B, D, H, W)``, ``(B, N, D)`` or ``(B, D)``.
        teacher: Activation of the teacher, of the same shape.
        distance: ``mse``, the mean over all entries, or ``cosine``, the mean over samples and positions.

    Returns:
        A scalar.

    Raises:
        InputError: If the shapes differ.

    Example:
        >>> x = torch.ones(2, 5, 3)
        >>> hidden_state(-x, x), hidden_state(-x, x, distance="cosine")
        (tensor(4.), tensor(2.0000))
    """
    check_same_shape(student, teacher, "activations")
    if distance == "mse":
        return F.mse_loss(student, teacher)
    channels = 1 if student.dim() == 4 else -1
    # half the square of a chord is one less the cosine, with all its digits where the two nearly agree
    return with_gradient(_one_less_cosine, student, teacher, channels)


def _one_less_cosine(student: Tensor, teacher: Tensor, dim: int) -> tuple[Tensor, Gradient]:
    (s, length), (t, other) = _unit(student, dim), _unit(teacher, dim)
    difference = s - t
    squares = difference.square().sum(dim, keepdim=True)

    def gradient() -> Tensor:
        # the part along the student's own direction only makes it longer
        along = (squares + (other == torch.inf)) / 2
        return difference.addcmul_(s, along, value=-1).div_(length * squares.numel())

    return squares.mean() / 2, gradient


def _unit(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Vectors of norm 1 and their lengths, infinite where a vector is zero: so it stays, and gets no gradient."""
    squares = x.square().sum(dim, keepdim=True)  # four times as fast as a norm along the channels of a map
    length = squares.clamp(min=1e-24).sqrt().masked_fill(squares == 0, torch.inf)
    return x / length, length


class HiddenState(FeatureLoss):
    r"""Every position of the student's activation equals the teacher's, or has its direction.

    Paper: Jiao et al., TinyBERT: Distilling BERT for Natural Language Understanding, EMNLP Findings 2020 (``mse``; the
        cosine is that of Sanh et al., DistilBERT, 2019), https://arxiv.org/abs/1909.10351

    .. math:: \sum_{(s, t)} \mathrm{mean} \big( (P f^s - f^t)^2 \big), \qquad
        \sum_{(s, t)} \mathrm{mean}_{bp} \Big( 1 - \cos \big( P f^s_{bp}, f^t_{bp} \big) \Big)

    with samples b, positions p and a projector P to the teacher's channels, which is trained with the student and
    dropped after. TinyBERT takes a linear one, and the squared difference of all layers with weight 1; DistilBERT none,
    and the cosine of the last layer with weight 1.

    Args:
        distance: What is compared, the values (``mse``) or the directions alone (``cosine``).
        projector: Bridge from the student's channels to the teacher's, copied for each pair of layers. Default: a
            ``LinearProjector`` where the numbers of channels differ, and none where they are equal.
        layers: Student module path to teacher module path. Default: the stages of both networks, the blocks of a
            transformer, paired by their depth.

    Shape:
        Maps ``(B, D, H, W)``, tokens ``(B, N, D)`` or vectors ``(B, D)`` on either side. As many tokens on both sides
        are compared one by one, the class token with the other; all else as maps, the larger one averaged to the size
        of the smaller. Output a scalar, summed over the pairs.

    Raises:
        InputError: If ``distance`` is none of the two, an activation is no map, tokens or vectors, or the loss is
            called before :meth:`build`.

    Traps:
        - Every position counts: padded tokens of a text too.
        - A last linear layer of the projector learns the teacher's scale in the student's place: the cosine needs none.
        - A transformer's blocks end before its last norm, where few channels are far larger than all others and make
          up most of the squared difference.

    Code: ``huawei-noah/Pretrained-Language-Model:TinyBERT/task_distill.py``, equal to ``mse`` but for padding;
        ``huggingface/transformers:examples/research_projects/distillation/distiller.py``, equal to ``cosine`` of the
        tokens that are no padding.

    Example:
        >>> student = Outputs(torch.zeros(2, 10), {"blocks.2": torch.randn(2, 17, 3)})
        >>> teacher = Outputs(torch.zeros(2, 10), {"blocks.11": torch.randn(2, 17, 5)})
        >>> loss = HiddenState(distance="cosine", layers={"blocks.2": "blocks.11"})
        >>> loss.build(student, teacher)
        >>> loss(student, teacher, torch.tensor([0, 3])).shape
        torch.Size([])
    """

    def __init__(self, distance: Distance = "mse", projector: Projector | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require(distance in ("mse", "cosine"), "distance", repr(distance), "mse or cosine")
        self.distance: Distance = distance
        self.projector = projector
        self.bridges = nn.ModuleList()

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Create a projector for each pair of layers, on the device of the student's activations.

        Args:
            student: What the student said about the example batch.
            teacher: What the teacher said about it.
        """
        bridges: list[nn.Module] = []
        for s, t in (_alike(*pair) for pair in self.pairs(student, teacher)):
            channels = 1 if s.dim() == 4 else -1
            if self.projector is None and s.shape[channels] == t.shape[channels]:
                bridges.append(nn.Identity())
                continue
            bridge = LinearProjector() if self.projector is None else deepcopy(self.projector)
            bridge.build(s, t)
            bridges.append(bridge)
        self.bridges = nn.ModuleList(bridges)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Distances of the projected activations, summed over the pairs."""
        if len(self.bridges) != len(self.layers):
            raise InputError(
                "HiddenState must be built with the outputs of a dry run before it is called, got no build()"
            )
        pairs = [_alike(*pair) for pair in self.pairs(student, teacher)]
        terms = [hidden_state(net(s), t, self.distance) for net, (s, t) in zip(self.bridges, pairs, strict=True)]
        return torch.stack(terms).sum()


def _alike(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Two activations as they are where they differ in their last dimension alone, else as maps of one size."""
    if student.dim() == teacher.dim() < 4 and student.shape[:-1] == teacher.shape[:-1]:
        return student, teacher
    return same_size(as_map(student), as_map(teacher))
