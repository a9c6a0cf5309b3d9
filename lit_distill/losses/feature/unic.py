"""UNIC: one student for several teachers, each reached by a ladder of projectors that is thrown away."""

import math
from itertools import cycle
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses.base import FeatureLoss
from lit_distill.losses.checks import check_same_shape, require
from lit_distill.losses.directions import unit
from lit_distill.losses.draws import Draws
from lit_distill.losses.feature.standardiser import Standardiser
from lit_distill.losses.precision import fp32
from lit_distill.losses.views import as_map, as_tokens, pooled, resized
from lit_distill.models.layer_views import default_layers


@fp32
def unic_rows(student: Tensor, teacher: Tensor, cosine_weight: float = 0.5, smooth_l1_weight: float = 0.5) -> Tensor:
    """One minus the cosine, and the smooth L1 distance, of the vectors of each sample; see :class:`UNIC`.

    Args:
        student: Projected vectors of the student, ``(B, D)`` or ``(B, N, D)``.
        teacher: Standardised vectors of a teacher, of the same shape.
        cosine_weight: Factor of the first.
        smooth_l1_weight: Factor of the second, the mean over channels.

    Returns:
        One value a sample, the mean over its vectors, ``(B,)``.

    Raises:
        InputError: If the shapes differ.

    Example:
        >>> x = torch.eye(2)
        >>> unic_rows(-x, x), unic_rows(x, x)
        (tensor([1.3750, 1.3750]), tensor([0., 0.]))
    """
    check_same_shape(student, teacher, "vectors")
    # half the square of a chord is one less the cosine, with all its digits where the two nearly agree
    angles = (unit(student, -1) - unit(teacher, -1)).square().sum(-1) / 2
    distances = F.smooth_l1_loss(student, teacher, reduction="none").mean(-1)
    rows = cosine_weight * angles + smooth_l1_weight * distances
    return rows if rows.dim() == 1 else rows.mean(1)


def unic_kept(losses: Tensor, draws: Tensor, drop: float = 0.5) -> Tensor:
    """Which teachers each sample listens to: the one it is worst at, and each other one unless it is dropped.

    Args:
        losses: One value a teacher and sample, ``(K, B)``.
        draws: Uniform in [0, 1), ``(K, B)``; below ``drop`` a teacher is dropped.
        drop: With what probability.

    Returns:
        Booleans ``(K, B)``.

    Example:
        >>> unic_kept(torch.tensor([[3.0, 1.0], [2.0, 4.0]]), torch.tensor([[0.1, 0.9], [0.2, 0.3]]))
        tensor([[ True,  True],
                [False,  True]])
    """
    worst = F.one_hot(losses.argmax(0), len(losses)).T.bool()
    return worst | (draws >= drop)


class UNIC(FeatureLoss):
    r"""Several teachers with features of their own are reached from all depths of one student.

    Paper: Sariyildiz, Weinzaepfel, Lucas, Larlus, Kalantidis, UNIC: Universal Classification Models via Multi-teacher
        Distillation, ECCV 2024, https://arxiv.org/abs/2408.05088

    .. math:: \frac{\sum_{kb} c_{kb} \, l_{kb}}{\sum_{kb} c_{kb}}, \quad l_{kb} = \frac{1}{2} \sum_{v \in \{
        \text{class}, \text{patches} \}} \mathrm{mean}_i \Big[ \lambda_1 \big( 1 - \cos(s_{kbi}, t_{kbi}) \big) +
        \lambda_2 \, \mathrm{smooth}_{L1} (s_{kbi} - t_{kbi}) \Big], \quad s_k = \sum_r P_{kr} (f^s_r)

    for teacher k and sample b: t is the teacher's class token, or each of its patches i, with mean 0 and standard
    deviation 1 in each channel, by statistics that run along with training. The projectors P, one a teacher, rung r of
    the ladder and kind of token, have two linear layers with a GELU between; they are trained with the student and
    dropped after. A sample always listens to the teacher it is worst at (:math:`c = 1`) and drops each other one with
    probability ``drop``. The authors have weight 1, and no other term.

    The teachers are the members of an ``Ensemble``. In ``layers`` the student's paths are the rungs of every ladder,
    and each different path of the teachers is one of them; which stands beside which is of no importance.

    Draws come from a generator of their own; checkpoints hold their count, and the statistics.

    Args:
        drop: Probability that a sample drops a teacher other than the one it is worst at.
        cosine_weight: Factor :math:`\lambda_1` of the angles.
        smooth_l1_weight: Factor :math:`\lambda_2` of the distances.
        momentum: The least share of a batch in the statistics of the teachers. The authors' goes from 1 to 0.001, as
            the callback ``Schedule`` does in the shape of a cosine.
        seed: Another seed, other draws.
        layers: Student module path to teacher module path, at least as many as there are teachers. Default: the stages
            of the student, the blocks of a transformer, and the last one of every teacher.

    Shape:
        Maps ``(B, C, H, W)``, tokens ``(B, N, D)`` or vectors ``(B, D)`` on either side. Of tokens that do not fill a
        square the first is the class token; where there is none, the mean over positions stands for it. The student's
        maps are brought to the size of the teacher's. Output a scalar.

    Raises:
        InputError: If ``drop`` is not in [0, 1], another number is out of its range, there are fewer rungs than
            teachers, an activation is none of these, or the loss is called before :meth:`build`.

    Traps:
        - The authors take the teachers' tokens after their last norm: for a timm transformer that is the layer
          ``members.<name>.norm``. The default is the last block before it.
        - A projector's hidden layer is as wide as its rung, at the last rung four times as wide: for many rungs and
          teachers the ladders are larger than the student.
        - The student's own classifier gets nothing from this term.

    Code: ``naver/unic:modeling/losses.py``, ``modeling/teacher_dropping.py``, ``modeling/unic.py`` and ``utils.py``,
        equal to this but for the first steps, in which the authors' statistics are 0 and 1 and then those of the latest
        batch alone; here they are the mean over the batches so far.

    Example:
        >>> student = Outputs(torch.zeros(2, 10), {"one": torch.randn(2, 4, 4, 4), "two": torch.randn(2, 8, 2, 2)})
        >>> features = {"members.cnn.layer3": torch.randn(2, 6, 2, 2), "members.vit.norm": torch.randn(2, 17, 5)}
        >>> teacher = Outputs(torch.zeros(2, 10), features)
        >>> loss = UNIC(layers={"one": "members.cnn.layer3", "two": "members.vit.norm"})
        >>> loss.build(student, teacher)
        >>> loss(student, teacher, torch.tensor([0, 3])).shape
        torch.Size([])
    """

    def __init__(
        self,
        drop: float = 0.5,
        cosine_weight: float = 0.5,
        smooth_l1_weight: float = 0.5,
        momentum: float = 0.001,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        require(0 <= drop <= 1, "drop", drop, "in [0, 1]")
        require(cosine_weight >= 0, "cosine_weight", cosine_weight, "0 or positive")
        require(smooth_l1_weight >= 0, "smooth_l1_weight", smooth_l1_weight, "0 or positive")
        require(0 <= momentum <= 1, "momentum", momentum, "in [0, 1]")
        self.drop = drop
        self.cosine_weight = cosine_weight
        self.smooth_l1_weight = smooth_l1_weight
        self.momentum = momentum
        self.draws = Draws(seed)
        self.class_ladders = nn.ModuleList()
        self.patch_ladders = nn.ModuleList()
        self.class_scales = nn.ModuleList()
        self.patch_scales = nn.ModuleList()

    def choose_layers(self, student: nn.Module, teacher: nn.Module) -> None:
        """Take the stages of the student and the last one of every teacher if no layers were given.

        Args:
            student: The student itself.
            teacher: The whole teacher, frozen.
        """
        if self.layers:
            return
        members = getattr(teacher, "members", None)
        names = list(members) if isinstance(members, nn.ModuleDict) else []
        if self.teacher is not None:
            names = [self.teacher]
        prefixes = [f"members.{name}." for name in names] or [""]
        networks = [teacher.get_submodule(prefix.removesuffix(".")) for prefix in prefixes]
        tops = [prefix + default_layers(net, "last")[0] for prefix, net in zip(prefixes, networks, strict=True)]
        rungs = default_layers(student)
        few = f"none, for {len(tops)} teachers and {len(rungs)} stages of the student"
        require(len(rungs) >= len(tops), "layers", few, "given where there are more teachers than stages")
        self.layers = dict(zip(rungs, cycle(tops), strict=False))

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Create the ladders, on the device of the student's activations, and the statistics.

        Args:
            student: What the student said about the example batch.
            teacher: What the teachers said about it.
        """
        rungs, tops = self._rungs(student), self._tops(teacher)
        like = rungs[0]
        dtype = torch.promote_types(like.dtype, torch.get_default_dtype())  # a dry run may be in half precision
        widths = [as_map(rung).shape[1] for rung in rungs]
        wide = [as_map(top).shape[1] for top in tops]
        for ladders in (self.class_ladders, self.patch_ladders):
            ladders.extend(Ladder(widths, width) for width in wide)
            ladders.to(device=like.device, dtype=dtype)
        for scales in (self.class_scales, self.patch_scales):
            scales.extend(Standardiser(width) for width in wide)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Distance from the teachers that each sample listens to."""
        if not self.class_ladders:
            raise InputError("UNIC must be built with the outputs of a dry run before it is called, got no build()")
        losses = self._losses(self._rungs(student), self._tops(teacher))
        if not self.training or len(losses) == 1:
            return losses.mean()
        draws = torch.rand(losses.shape, generator=self.draws.generator(losses.device), device=losses.device)
        kept = unic_kept(losses.detach(), draws, self.drop)
        return torch.where(kept, losses, 0.0).sum() / kept.sum()

    def _losses(self, rungs: list[Tensor], tops: list[Tensor]) -> Tensor:
        """One value a teacher and sample, ``(K, B)``."""
        losses = []
        classes = [_class_token(rung) for rung in rungs]
        for k, top in enumerate(tops):
            map_of_top = as_map(top)
            size = (map_of_top.shape[2], map_of_top.shape[3])
            patches = [as_tokens(resized(as_map(rung), size)) for rung in rungs]
            of_class = self.class_scales[k](_class_token(top), self.momentum)
            of_patches = self.patch_scales[k](as_tokens(map_of_top), self.momentum)
            weights = self.cosine_weight, self.smooth_l1_weight
            one = unic_rows(self.class_ladders[k](classes), of_class, *weights)
            other = unic_rows(self.patch_ladders[k](patches), of_patches, *weights)
            losses.append((one + other) / 2)
        return torch.stack(losses)

    def _rungs(self, student: Outputs) -> list[Tensor]:
        return [student.features[path] for path in self.layers]

    def _tops(self, teacher: Outputs) -> list[Tensor]:
        tops = dict.fromkeys(self.layers.values())
        return [teacher.features[path] for path in tops]


class Ladder(nn.Module):
    """Projects the activations of several depths to one width, and sums them.

    Args:
        widths: Of the activations, from shallow to deep.
        out: Width that they get.
    """

    def __init__(self, widths: list[int], out: int) -> None:
        super().__init__()
        hidden = [*widths[:-1], 4 * widths[-1]]
        pairs = zip(widths, hidden, strict=True)
        self.rungs = nn.ModuleList(nn.Sequential(nn.Linear(a, b), nn.GELU(), nn.Linear(b, out)) for a, b in pairs)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, rungs: list[Tensor]) -> Tensor:
        """Sum of the projected activations, ``(..., D_r)`` each, to ``(..., out)``."""
        return torch.stack([net(x) for net, x in zip(self.rungs, rungs, strict=True)]).sum(0)


def _class_token(x: Tensor) -> Tensor:
    """The first of tokens that do not fill a square, ``(B, D)``; else the mean over all positions."""
    has_prefix = x.dim() == 3 and math.isqrt(x.shape[1]) ** 2 != x.shape[1]
    return x[:, 0] if has_prefix else fp32(pooled)(x)
