"""Flow of the solution procedure: how two layers of a network go together."""

from collections.abc import Sequence
from copy import deepcopy
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lit_distill.core.outputs import Outputs
from lit_distill.core.projectors import Projector
from lit_distill.errors import InputError
from lit_distill.losses.base import FeatureLoss
from lit_distill.losses.checks import require
from lit_distill.losses.feature.maps import aligned
from lit_distill.losses.precision import fp32
from lit_distill.losses.views import as_map


@fp32
def flow(bottom: Tensor, top: Tensor) -> Tensor:
    r"""Products of the channels of two layers, averaged over positions.

    .. math:: G_{ij} = \frac{1}{H W} \sum_{hw} f^{\text{bottom}}_{ihw} \, f^{\text{top}}_{jhw}

    Args:
        bottom: A map of the lower layer, ``(B, C_1, H_1, W_1)``.
        top: A map of the upper layer, ``(B, C_2, H_2, W_2)``; the larger map is averaged to the size of the smaller.

    Returns:
        ``(B, C_1, C_2)``.

    Raises:
        InputError: If they are not maps of the same samples.

    Example:
        >>> flow(torch.ones(1, 2, 4, 4), 3 * torch.ones(1, 1, 2, 2))
        tensor([[[3.],
                 [3.]]])
    """
    a, b = (x.flatten(2) for x in aligned(bottom, top))
    return torch.bmm(a, b.transpose(1, 2)) / a.shape[2]


def fsp(student: Sequence[Tensor], teacher: Sequence[Tensor], mode: Literal["paper", "code"] = "code") -> Tensor:
    r"""Difference of the flows between consecutive layers; the formula, and what the modes are, stands in :class:`FSP`.

    Args:
        student: Maps ``(B, C_i, H, W)`` from the lowest to the highest layer, at least two.
        teacher: As many, with the channels of the student's; sizes may differ.
        mode: Formula of the paper or of the released code.

    Returns:
        A scalar, summed over the steps from one layer to the next.

    Raises:
        InputError: If there are fewer than two layers, or the channels differ.

    Example:
        >>> maps = [torch.rand(2, 3, 8, 8), torch.rand(2, 5, 4, 4)]
        >>> fsp(maps, maps)
        tensor(0.)
    """
    _check_steps(len(student))
    channels = [x.shape[1] for x in student], [x.shape[1] for x in teacher]
    if channels[0] != channels[1]:
        raise InputError(
            "student and teacher maps must have the same numbers of channels for FSP, which projector: "
            f"{{class_path: LinearProjector}} gives them, got {channels[0]} and {channels[1]}"
        )
    terms = []
    for below, above in pairwise(zip(student, teacher, strict=True)):
        squares = (flow(below[0], above[0]) - flow(below[1], above[1])).square()
        terms.append(squares.mean() if mode == "code" else squares.sum((1, 2)).mean())
    return torch.stack(terms).sum()


def _check_steps(layers: int) -> None:
    require(layers > 1, "layers", layers, "at least 2 pairs, from one of which to the next something flows")


class FSP(FeatureLoss):
    r"""The student goes from layer to layer as the teacher does.

    Paper: Yim, Joo, Bae, Kim, A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer
        Learning, CVPR 2017, https://openaccess.thecvf.com/content_cvpr_2017/html/Yim_A_Gift_From_CVPR_2017_paper.html

    .. math:: \sum_n \frac{1}{B} \sum_b \big\| G^s_{bn} - G^t_{bn} \big\|_F^2 \quad \text{(paper)}, \qquad
        G_{bn} = \frac{1}{H W} F_{bn} F_{b,n+1}^\top

    with the maps :math:`F_{bn} \in \mathbb{R}^{C_n \times H W}` of consecutive layers n, of which the larger is
    averaged to the size of the smaller. Mode ``code`` divides each summand by its :math:`C_n C_{n+1}` entries.

    In the paper this is the first of two stages, from which the student goes on with labels alone
    (``lit-distill stages``). The benchmark of CRD compares the stem and every stage, for 30 epochs, with weight 50.

    Args:
        mode: How the entries of a flow count: by their sum (``paper``), or by their mean (``code``, to which the
            published weight belongs).
        projector: Bridge from the student's channels to the teacher's, copied for each layer, e.g. ``LinearProjector``;
            it trains with the student and is dropped after. Default: none, the channels must be equal, as in the paper.

    Shape:
        At least two pairs of maps ``(B, C_n, H_s, W_s)`` and ``(B, C_n, H_t, W_t)``, or of tokens ``(B, N, D)`` that
        fill a square, in the order of the networks; output a scalar, summed over the steps from layer to layer.

    Raises:
        InputError: If there is one pair of layers only, if channels differ without a projector, if ``mode`` is none
            of the two, if an activation is no map, or if the loss has a projector and is called before :meth:`build`.

    Traps:
        - ``layers`` is read in its order, from the lowest to the highest layer.
        - Products are not normalised: the value grows with the fourth power of the activations' scale.

    Code: ``HobbitLong/RepDistiller:distiller_zoo/FSP.py``, equal to mode ``code`` without a projector; the authors
        released none.

    Example:
        >>> features = {"layer1": torch.rand(2, 3, 8, 8), "layer2": torch.rand(2, 5, 4, 4)}
        >>> outputs = Outputs(torch.zeros(2, 10), features)
        >>> FSP(layers={"layer1": "layer1", "layer2": "layer2"})(outputs, outputs, torch.tensor([0, 3]))
        tensor(0.)
    """

    def __init__(
        self, mode: Literal["paper", "code"] = "code", projector: Projector | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        require(mode in ("paper", "code"), "mode", repr(mode), "paper or code")
        self.mode: Literal["paper", "code"] = mode
        self.projector = projector
        self.bridges = nn.ModuleList()

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Create a bridge for each layer if there is a projector, on the device of the student's maps.

        Args:
            student: What the student said about the example batch.
            teacher: What the teacher said about it.
        """
        _check_steps(len(self.layers))
        if self.projector is None:
            self(student, teacher, student.logits)  # which finds out before training if channels differ
            return
        bridges = []
        for s, t in self.pairs(student, teacher):
            bridge = deepcopy(self.projector)
            bridge.build(as_map(s), as_map(t))
            bridges.append(bridge)
        self.bridges = nn.ModuleList(bridges)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Difference of the flows, summed over the steps from layer to layer."""
        pairs = [(as_map(s), as_map(t)) for s, t in self.pairs(student, teacher)]
        learnt = [s for s, _ in pairs]
        if self.projector is not None:
            if len(self.bridges) != len(pairs):
                raise InputError("FSP must be built with the outputs of a dry run before it is called, got no build()")
            learnt = [bridge(s) for bridge, s in zip(self.bridges, learnt, strict=True)]
        return fsp(learnt, [t for _, t in pairs], self.mode)
