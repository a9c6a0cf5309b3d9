"""Semantic calibration: attention decides from which layers of the teacher each layer of the student learns."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses.base import RelationalLoss
from lit_distill.losses.checks import check_temperature, require
from lit_distill.losses.precision import fp32
from lit_distill.losses.products import products
from lit_distill.losses.views import as_map, pooled, same_size


@fp32
def similarities(x: Tensor, size: int) -> Tensor:
    """Scalar products of each sample with those of its batch, filled with zeros to ``size``.

    Args:
        x: Activations ``(B, ...)``.
        size: Length of a row, B or more: a sample that is missing is like no other.

    Returns:
        ``(B, size)``.

    Example:
        >>> similarities(torch.tensor([[1.0, 0.0], [2.0, 1.0]]), 3)
        tensor([[1., 2., 0.],
                [2., 5., 0.]])
    """
    flat = x.flatten(1)
    return F.pad(products(flat), (0, size - len(x)))


@fp32
def semckd_attention(queries: Tensor, keys: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """How much each layer of the student listens to each of the teacher, sample by sample.

    Args:
        queries: Of the S layers of the student, ``(B, S, D)``.
        keys: Of the T layers of the teacher, ``(B, T, D)``.
        temperature: Divides the cosines.

    Returns:
        ``(B, S, T)``; each row sums to 1.

    Example:
        >>> semckd_attention(torch.ones(1, 1, 2), torch.ones(1, 4, 2))
        tensor([[[0.2500, 0.2500, 0.2500, 0.2500]]])
    """
    return (F.normalize(queries, dim=-1) @ F.normalize(keys, dim=-1).mT / temperature).softmax(-1)


@fp32
def sample_errors(projected: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared error of each sample, ``(B, ...)`` to ``(B,)``."""
    return (projected - wanted).square().flatten(1).mean(1)


def bridge(student: int, teacher: int) -> nn.Module:
    """Three convolutions (1x1, 3x3, 1x1) between two numbers of channels, by way of twice the teacher's.

    Args:
        student: Channels of the student's map.
        teacher: Channels of the teacher's map.
    """
    middle = 2 * teacher
    return nn.Sequential(
        nn.Conv2d(student, middle, 1, bias=False),
        nn.BatchNorm2d(middle),
        nn.ReLU(),
        nn.Conv2d(middle, middle, 3, padding=1, bias=False),
        nn.BatchNorm2d(middle),
        nn.ReLU(),
        nn.Conv2d(middle, teacher, 1, bias=False),
    )


class SemCKD(RelationalLoss):
    r"""Each layer of the student learns from all of the teacher's, and attention says how much from which.

    Paper: Chen, Mei, Zhang, Wang, Feng, Chen, Cross-Layer Distillation with Semantic Calibration, AAAI 2021,
        https://arxiv.org/abs/2012.03236

    .. math:: \frac{1}{B S} \sum_b \sum_{ij} A_{bij} \, \mathrm{mean} \big( P_{ij}(f^s_{i,b}) - f^t_{j,b} \big)^2,
        \quad A_{bi} = \mathrm{softmax}_j \Big( \frac{q_{bi}^\top k_{bj}}{\tau} \Big)

    with unit vectors q and k, each layer's own map (two linear layers) of a sample's row in :math:`F F^\top`, its
    scalar products with the whole batch, and three convolutions :math:`P_{ij}` for each of the S T pairs of layers. Of
    two maps the larger is averaged to the size of the smaller. Attention, convolutions and keys are trained with the
    student and dropped after. The authors take the stages with weight 400, beside cross entropy and ``KD`` with
    weight 1 each.

    Such a row is as long as the batch is large, so that the authors' networks fit one size of batch, and a smaller one
    at the end of an epoch is skipped. Here it is filled with zeros, as if the samples that are missing were like no
    other. With ``batch_size: null`` queries and keys are made from the pooled activations in place of the rows, which
    fits batches of any size and does not depend on what else is in them; that is not the published method.

    Args:
        batch_size: Length of a row: the largest batch, of each process, twice as many with ``strong_view``; or null.
        embedding: Length of queries and keys; the authors take a quarter of the batch.
        temperature: Divides the cosines of queries and keys, :math:`\tau`.
        layers: Student module path to teacher module path. All named layers of the student attend to all named of
            the teacher, whichever the pairs. Default: the stages of both.
        weight: Factor of this term in the total.
        teacher: Name of the ensemble member this term listens to; default: the teacher as a whole.

    Shape:
        Maps ``(B, C, H, W)``, or tokens ``(B, N, D)`` that fill a square, of any size on either side; output a scalar.

    Raises:
        InputError: If a number is out of its range, a batch is larger than ``batch_size``, or the loss is called
            before :meth:`build`.

    Traps:
        - A row's entries stand in the order of the batch, which is another at each step: the first linear layer cannot
          know which sample is which.
        - Attention learns from the same loss, and prefers the layer of the teacher that is easiest to match.
        - With one layer of the teacher there is nothing to choose, and neither queries nor keys get a gradient.
        - Under DDP each device compares its own samples, and the BatchNorms of the convolutions see those alone.

    Code: ``DefangChen/SimKD:models/util.py`` (``SelfA``) and ``distiller_zoo/SemCKD.py``, equal to this for batches of
        ``batch_size``.

    Example:
        >>> student = Outputs(torch.zeros(2, 10), {"layer1": torch.rand(2, 3, 8, 8), "layer2": torch.rand(2, 4, 4, 4)})
        >>> teacher = Outputs(torch.zeros(2, 10), {"layer1": torch.rand(2, 5, 8, 8), "layer2": torch.rand(2, 6, 4, 4)})
        >>> loss = SemCKD(layers={"layer1": "layer1", "layer2": "layer2"}, weight=400.0)
        >>> loss.build(student, teacher)
        >>> loss(student, teacher, torch.tensor([0, 3])).shape
        torch.Size([])
    """

    default_view = "stages"

    def __init__(
        self,
        batch_size: int | None = 64,
        embedding: int = 16,
        temperature: float = 1.0,
        layers: dict[str, str] | None = None,
        weight: float = 1.0,
        teacher: str | None = None,
    ) -> None:
        super().__init__(layers=layers, weight=weight, teacher=teacher)
        require(batch_size is None or batch_size >= 1, "batch_size", batch_size, "at least 1, or null")
        require(embedding >= 1, "embedding", embedding, "at least 1")
        check_temperature(temperature)
        self.batch_size = batch_size
        self.embedding = embedding
        self.temperature = temperature
        self.queries = nn.ModuleList()
        self.keys = nn.ModuleList()
        self.bridges = nn.ModuleList()

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Create the attention and all convolutions, on the device of the student's maps.

        Args:
            student: What the student said about the example batch.
            teacher: What the teacher said about it.
        """
        learnt, taught = self._maps(student, teacher)
        self.queries.extend(self._embedder(x) for x in learnt)
        self.keys.extend(self._embedder(x) for x in taught)
        self.bridges.extend(bridge(s.shape[1], t.shape[1]) for s in learnt for t in taught)
        # a dry run under autocast gives half-precision maps: parameters stay in the default precision
        self.to(device=learnt[0].device, dtype=torch.promote_types(learnt[0].dtype, torch.get_default_dtype()))

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Errors of all pairs of layers, weighted by the attention."""
        if not self.bridges:
            raise InputError("SemCKD must be built with the outputs of a dry run before it is called, got no build()")
        learnt, taught = self._maps(student, teacher)
        size = len(learnt[0])
        if self.batch_size is not None:
            require(size <= self.batch_size, "batch_size", self.batch_size, f"{size} for this batch, or more")
        attention = semckd_attention(
            torch.stack([self._embedded(embed, x) for embed, x in zip(self.queries, learnt, strict=True)], 1),
            torch.stack([self._embedded(embed, x) for embed, x in zip(self.keys, taught, strict=True)], 1),
            self.temperature,
        )
        pairs = [same_size(s, t) for s in learnt for t in taught]
        errors = [sample_errors(p(s), t) for p, (s, t) in zip(self.bridges, pairs, strict=True)]
        return (attention.flatten(1) * torch.stack(errors, 1)).sum() / (size * len(learnt))

    def _maps(self, student: Outputs, teacher: Outputs) -> tuple[list[Tensor], list[Tensor]]:
        learnt = [as_map(student.features[path]) for path in self.layers]
        taught = [as_map(teacher.features[path]) for path in dict.fromkeys(self.layers.values())]
        return learnt, taught

    def _embedder(self, example: Tensor) -> nn.Module:
        wide = example.shape[1] if self.batch_size is None else self.batch_size
        return nn.Sequential(
            nn.Linear(wide, 2 * self.embedding), nn.ReLU(), nn.Linear(2 * self.embedding, self.embedding)
        )

    def _embedded(self, embed: nn.Module, x: Tensor) -> Tensor:
        described = fp32(pooled)(x) if self.batch_size is None else similarities(x, self.batch_size)
        given: Tensor = fp32(embed)(described)
        return given
