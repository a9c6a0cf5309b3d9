"""Instance relationship graph: distances between samples at several layers, and how far each moves between layers."""

from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses.base import RelationalLoss
from lit_distill.losses.checks import check_same_shape, require
from lit_distill.losses.gather import gathered
from lit_distill.losses.layer_pairs import layer_pairs
from lit_distill.losses.precision import fp32
from lit_distill.losses.products import products
from lit_distill.losses.views import as_map, same_size

#: Distances are in units of the largest one; a batch in one place has none.
SMALLEST = 1e-12


@fp32
def irg_edges(x: Tensor) -> Tensor:
    r"""Squared distances between samples in units of the largest, through which the gradient flows too.

    .. math:: E_{ij} = \| x_i - x_j \|^2 \, / \, \max_{kl} \| x_k - x_l \|^2

    Args:
        x: Activations ``(B, ...)``, each sample's one vector.

    Returns:
        ``(B, B)`` in [0, 1]; zeros for a batch in one place.

    Example:
        >>> irg_edges(torch.tensor([[0.0], [1.0], [3.0]]))
        tensor([[0.0000, 0.1111, 1.0000],
                [0.1111, 0.0000, 0.4444],
                [1.0000, 0.4444, 0.0000]])
    """
    flat = x.flatten(1)
    flat = flat - flat.mean(0).detach()  # any constant would do: far from the origin |a|^2 + |b|^2 - 2ab has no digits
    both = products(flat)
    squares = both.diagonal()
    distances = (squares.unsqueeze(1) + squares - 2 * both).clamp(min=0)
    distances = distances * (1 - torch.eye(len(x), dtype=flat.dtype, device=flat.device))
    return distances / distances.amax().clamp(min=SMALLEST)


@fp32
def irg_edge_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the edges of one layer of either network; see :func:`irg_edges`.

    Args:
        student: Activations ``(B, ...)``.
        teacher: Activations ``(B, ...)``, of any other size.

    Returns:
        A scalar.

    Raises:
        InputError: If they are not of the same samples.
    """
    given = f"{len(student)} and {len(teacher)} samples"
    require(len(student) == len(teacher), "student and teacher activations", given, "of the same samples")
    return F.mse_loss(irg_edges(student), irg_edges(teacher))


def irg_transformation(
    student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], mode: Literal["instances", "batch"] = "instances"
) -> Tensor:
    """Difference of what happens between two layers of either network; the formulas stand in :class:`IRG`.

    Args:
        student: Maps ``(B, C, H, W)`` of an earlier and of a later layer.
        teacher: The same of the teacher, of other sizes.
        mode: Compare each sample's movement, or the batch's.

    Returns:
        A scalar.
    """
    moved, taught = (_movements(*maps) for maps in (student, teacher))
    if mode == "instances":
        one, other = (x / x.amax().clamp(min=SMALLEST) for x in (moved.sum(1), taught.sum(1)))
        return F.mse_loss(one, other)
    bent, wanted = (irg_edge_loss(*maps) for maps in (student, teacher))
    return (bent - wanted).square() + (moved.mean() - taught.mean()).square()


@fp32
def _movements(before: Tensor, after: Tensor) -> Tensor:
    """Squared differences of two maps in the smaller size and number of channels of both, ``(B, C H W)``."""
    maps = same_size(before, after)
    one, other = (x.flatten(2).transpose(1, 2) for x in maps)
    if one.shape[2] != other.shape[2]:
        channels = min(one.shape[2], other.shape[2])
        one, other = (x if x.shape[2] == channels else F.adaptive_avg_pool1d(x, channels) for x in (one, other))
    return (one - other).square().flatten(1)


class IRG(RelationalLoss):
    r"""The student copies the teacher's answers, the distances between samples, and how samples move between layers.

    Paper: Liu, Cao, Li, Yuan, Hu, Li, Duan, Knowledge Distillation via Instance Relationship Graph, CVPR 2019,
        https://openaccess.thecvf.com/content_CVPR_2019/html/Liu_Knowledge_Distillation_via_Instance_Relationship_Graph_CVPR_2019_paper.html

    .. math:: w_v \, \mathrm{mse}(z^s, z^t) + \frac{w_e}{L} \sum_l \mathrm{mse}(E^s_l, E^t_l) + \frac{w_t}{M - 1}
        \sum_{l < M} \mathrm{mse}(\Lambda^s_l, \Lambda^t_l), \quad
        E_{ij} = \frac{\| x_i - x_j \|^2}{\max_{kl} \| x_k - x_l \|^2}, \quad
        \Lambda_{l,i} = \frac{\| x_{l+1,i} - x_{l,i} \|^2}{\max_k \| x_{l+1,k} - x_{l,k} \|^2}

    with logits z as vertices, edges E at all L layers, and transformations between consecutive ones of the M that are
    maps. Without ``layers`` they are the stages and the pooled vectors. Of two maps the larger is averaged to the size
    of the smaller, and the one with more channels to its number of channels: of twice as many each two neighbours. Mode
    ``batch`` compares two numbers a network in place of :math:`\Lambda`:

    .. math:: \big( \mathrm{mse}(E^s_l, E^s_{l+1}) - \mathrm{mse}(E^t_l, E^t_{l+1}) \big)^2 +
        \big( \mathrm{mse}(x^s_l, x^s_{l+1}) - \mathrm{mse}(x^t_l, x^t_{l+1}) \big)^2

    Args:
        vertex_weight: Factor of the logits, :math:`w_v`; 0 where the networks have other classes.
        edge_weight: Factor of the edges, :math:`w_e`.
        transform_weight: Factor of the transformations, :math:`w_t`.
        mode: Whether transformations are compared sample by sample (``instances``), or two numbers of the whole batch
            (``batch``).

    Shape:
        Maps ``(B, C, H, W)``, tokens ``(B, N, D)`` or vectors ``(B, D)``, of any size on either side; logits ``(B, C)``
        of both; output a scalar.

    Raises:
        InputError: If a weight is negative, ``mode`` is none of the two, fewer than two of the layers are maps or
            tokens while ``transform_weight`` is positive, or the shapes of the logits differ.

    Traps:
        - The largest distance of the batch is the unit: one outlier makes all other edges small. Without ``gather``
          the batch is that of each device.
        - Ports differ, see below; the authors' code is for Caffe.
        - Channels of two layers are compared by their position, which means little. The benchmark's port compares them
          only where both layers are of one shape, and leaves the rest out in silence.

    Code: ``AberHu/Knowledge-Distillation-Zoo:kd_losses/irg.py``, by others, equal to mode ``instances`` with its
        weights as defaults, for two maps and the pooled vector; ``DefangChen/SemCKD:distiller_zoo/IRG.py``, by others,
        has the transformations of mode ``batch``, and vertices and edges of one activation, all with weight 1.

    Example:
        >>> features = {"layer1": torch.randn(4, 8, 4, 4), "layer2": torch.randn(4, 16, 2, 2)}
        >>> outputs = Outputs(torch.zeros(4, 10), features)
        >>> IRG(layers={"layer1": "layer1", "layer2": "layer2"})(outputs, outputs, torch.arange(4))
        tensor(0.)
    """

    def __init__(
        self,
        vertex_weight: float = 0.1,
        edge_weight: float = 5.0,
        transform_weight: float = 5.0,
        mode: Literal["instances", "batch"] = "instances",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        require(vertex_weight >= 0, "vertex_weight", vertex_weight, "0 or positive")
        require(edge_weight >= 0, "edge_weight", edge_weight, "0 or positive")
        require(transform_weight >= 0, "transform_weight", transform_weight, "0 or positive")
        require(mode in ("instances", "batch"), "mode", repr(mode), "instances or batch")
        self.vertex_weight = vertex_weight
        self.edge_weight = edge_weight
        self.transform_weight = transform_weight
        self.mode: Literal["instances", "batch"] = mode

    def choose_layers(self, student: nn.Module, teacher: nn.Module) -> None:
        """Pair the stages of both networks, and what their classifiers see, if no layers were given.

        Args:
            student: The student itself.
            teacher: The whole teacher, frozen.
        """
        if not self.layers:
            stages = layer_pairs(student, teacher, "stages", "stages", self.teacher)
            self.layers = stages | layer_pairs(student, teacher, "pooled", "pooled", self.teacher)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Weighted differences of vertices, edges and transformations."""
        pairs = self.pairs(student, teacher)
        answers = student.logits, teacher.logits
        if self.gather:
            pairs = [(gathered(s), gathered(t)) for s, t in pairs]
            answers = gathered(student.logits), gathered(teacher.logits)
        total = self.edge_weight * torch.stack([irg_edge_loss(s, t) for s, t in pairs]).mean()
        if self.vertex_weight > 0:
            check_same_shape(*answers, "logits")
            total = total + self.vertex_weight * fp32(F.mse_loss)(*answers)
        if self.transform_weight > 0:
            total = total + self.transform_weight * self._transformations(pairs)
        return total

    def _transformations(self, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        maps = [(as_map(s), as_map(t)) for s, t in pairs if s.dim() > 2 and t.dim() > 2]
        if len(maps) < 2:
            raise InputError(
                f"layers must hold two pairs of maps or tokens at least for IRG with transform_weight "
                f"{self.transform_weight}, got {len(maps)}"
            )
        steps = [irg_transformation((s, s_next), (t, t_next), self.mode) for (s, t), (s_next, t_next) in pairwise(maps)]
        return torch.stack(steps).mean()
