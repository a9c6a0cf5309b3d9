"""Token-level relationship graphs: which patches of all images are alike, and how those of one image relate."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses.base import RelationalLoss
from lit_distill.losses.checks import check_same_shape, check_temperature, require
from lit_distill.losses.directions import unit
from lit_distill.losses.divergences.kl import reverse_kl
from lit_distill.losses.draws import Draws
from lit_distill.losses.gather import gathered
from lit_distill.losses.precision import fp32
from lit_distill.losses.products import products
from lit_distill.losses.views import as_map, as_tokens, same_size


@fp32
def trg_graph(tokens: Tensor, neighbours: int = 8, sigma: float = 1.0) -> Tensor:
    r"""Edges from each token to its nearest ones, :math:`\exp(- \| x_i - x_j \|^2 / 2 \sigma)`, and 0 elsewhere.

    Args:
        tokens: One a row, ``(N, D)``.
        neighbours: To how many each token has an edge; to all others where they are fewer. None has one to itself.
        sigma: Width of the edges.

    Returns:
        ``(N, N)``.

    Example:
        >>> trg_graph(torch.tensor([[0.0], [1.0], [3.0]]), neighbours=1)
        tensor([[0.0000, 0.6065, 0.0000],
                [0.6065, 0.0000, 0.0000],
                [0.0000, 0.1353, 0.0000]])
    """
    # seen from their mean: products from afar would leave nothing of the distances within a tight cluster
    inner = products(tokens - tokens.mean(0))
    norms = inner.diagonal()
    squares = (norms[:, None] + norms - 2 * inner).clamp(min=0)
    itself = torch.eye(len(tokens), dtype=torch.bool, device=tokens.device)
    nearest = squares.detach().masked_fill(itself, torch.inf)
    chosen = nearest.topk(min(neighbours, len(tokens) - 1), dim=1, largest=False).indices
    edges = torch.zeros_like(itself).scatter(1, chosen, True)
    return torch.exp(-squares / (2 * sigma)).masked_fill(~edges, 0.0)


@fp32
def trg_local(student: Tensor, teacher: Tensor, neighbours: int = 8, sigma: float = 1.0) -> Tensor:
    """Divergence between the neighbourhoods of two graphs; the formula stands in :class:`TRG`.

    Args:
        student: Tokens of the student, ``(N, D_s)``.
        teacher: The same tokens of the teacher, ``(N, D_t)``.
        neighbours: Edges of a token.
        sigma: Width of the edges.

    Returns:
        A scalar, the mean over tokens; 0 for a single one.
    """
    s, t = (trg_graph(x, neighbours, sigma) for x in (student, teacher))
    return reverse_kl(s, t).mean()


@fp32
def trg_global(student: Tensor, teacher: Tensor, temperature: float | Tensor = 0.1) -> Tensor:
    """A token of the student finds that of the teacher among all; the formula stands in :class:`TRG`.

    Args:
        student: Tokens of the student in the teacher's space, ``(N, D)``.
        teacher: The same tokens of the teacher, ``(N, D)``.
        temperature: Divides the cosines.

    Returns:
        A scalar, the mean over tokens; 0 for a single one.

    Raises:
        InputError: If the shapes differ, or the temperature is not positive.

    Example:
        >>> x = torch.eye(2)
        >>> round(trg_global(x, x, temperature=1.0).exp().item(), 3)  # 1 + 1 / e
        1.368
    """
    check_same_shape(student, teacher, "tokens")
    check_temperature(temperature)
    cosines = unit(student) @ unit(teacher).T
    return F.cross_entropy(cosines / temperature, torch.arange(len(student), device=student.device))


@fp32
def trg_context(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference of how the tokens of one image attend to each other; the formula stands in :class:`TRG`.

    Args:
        student: Tokens of the student, ``(B, N, D_s)``.
        teacher: Tokens of the teacher, ``(B, N, D_t)``.

    Returns:
        A scalar, the mean over samples and pairs of tokens.

    Example:
        >>> x = torch.randn(2, 4, 3)
        >>> trg_context(x, x)
        tensor(0.)
    """
    s, t = ((products(x) / x.shape[2] ** 0.5).softmax(2) for x in (student, teacher))
    return F.mse_loss(s, t)


class TRG(RelationalLoss):
    r"""Patches of all images form a graph, whose edges the student copies, near and far and within each image.

    Paper: Zhang, Liu, He, Knowledge Distillation via Token-level Relationship Graph, arXiv 2023,
        https://arxiv.org/abs/2306.12442

    .. math:: \alpha \, \mathrm{mean} \big( C^s - C^t \big)^2 + \frac{\beta}{N} \sum_i \mathrm{KL} \big( \sigma(A^s_i)
        \,\|\, \sigma(A^t_i) \big) - \frac{\gamma}{N} \sum_i \log \frac{\exp(\cos(P x^s_i, x^t_i) / T)}{\sum_j
        \exp(\cos(P x^s_i, x^t_j) / T)}

    .. math:: C = \sigma \Big( \frac{F F^\top}{\sqrt{D}} \Big), \quad A_{ij} = \exp \Big( - \frac{\| x_i - x_j \|^2}{2
        \, \text{width}} \Big) \text{ for the } k \text{ tokens } j \text{ nearest to } i, \text{ else } 0

    with the tokens F of one image, the softmax :math:`\sigma` of each row, and N tokens x drawn from all images of the
    batch, as many from each. The linear map P to the teacher's channels is trained with the student and dropped after.
    The paper begins with a high temperature T and lowers it as training goes on: the callback ``Schedule`` does so.

    The draws come from a generator of their own, whose state follows from ``seed``, the rank and how often it drew;
    checkpoints hold that count. In eval mode the draw is always the first.

    Args:
        context_weight: Factor :math:`\alpha` of the relations within an image.
        local_weight: Factor :math:`\beta` of the edges to neighbours.
        global_weight: Factor :math:`\gamma` of finding the teacher's token.
        tokens: How many are drawn from each image; all, where it has fewer.
        neighbours: Edges of a token, k.
        width: Of the edges: with tokens of norm 1, squared distances lie between 0 and 4.
        temperature: Divides the cosines, T.
        seed: Another seed, other tokens.
        gather: Build the graphs of the tokens of all ranks instead of this rank's alone (with gradients).
        layers: Student module path to teacher module path. Default: the last map or block of both networks.

    Shape:
        Maps ``(B, C, H, W)`` or tokens ``(B, N, D)``, of which those before a square map are left out; where sizes
        differ the larger map is averaged, and each position is a token. Output a scalar, summed over the pairs.

    Raises:
        InputError: If a number is out of its range, an activation is no map or tokens, or the loss is called before
            :meth:`build`.

    Traps:
        - An edge is that of each network's own nearest tokens: what the student thinks near and the teacher does not
          is pushed away, what only the teacher thinks near gets no gradient of its own.
        - Memory for N² numbers, N being the batch times ``tokens``.
        - Vectors are one token an image: then the context has nothing to say.

    Code: ``facebookresearch/moco-v3:moco/builder.py`` has the loss of finding the teacher's token, 2 T times as large;
        of the method itself none was found. The formulas are the paper's as others report them, and three things are
        ours: means where the paper sums over tokens, so that factors do not depend on how many are drawn; tokens of
        norm 1 in the graphs, so that one width fits both networks; no edge from a token to itself. The defaults are
        ours too.

    Example:
        >>> student = Outputs(torch.zeros(2, 10), {"layer3": torch.randn(2, 4, 4, 4)})
        >>> teacher = Outputs(torch.zeros(2, 10), {"layer3": torch.randn(2, 8, 4, 4)})
        >>> loss = TRG(layers={"layer3": "layer3"})
        >>> loss.build(student, teacher)
        >>> loss(student, teacher, torch.tensor([0, 3])).shape
        torch.Size([])
    """

    def __init__(
        self,
        context_weight: float = 1.0,
        local_weight: float = 1.0,
        global_weight: float = 1.0,
        tokens: int = 4,
        neighbours: int = 8,
        width: float = 1.0,
        temperature: float = 0.1,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        require(context_weight >= 0, "context_weight", context_weight, "0 or positive")
        require(local_weight >= 0, "local_weight", local_weight, "0 or positive")
        require(global_weight >= 0, "global_weight", global_weight, "0 or positive")
        require(tokens >= 1, "tokens", tokens, "at least 1")
        require(neighbours >= 1, "neighbours", neighbours, "at least 1")
        require(width > 0, "width", width, "positive")
        check_temperature(temperature)
        self.context_weight = context_weight
        self.local_weight = local_weight
        self.global_weight = global_weight
        self.tokens = tokens
        self.neighbours = neighbours
        self.width = width
        self.temperature = temperature
        self.draws = Draws(seed)
        self.projectors = nn.ModuleList()

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Create the linear map of each pair, on the device of the student's activations.

        Args:
            student: What the student said about the example batch.
            teacher: What the teacher said about it.
        """
        pairs = [_tokens(*pair) for pair in self.pairs(student, teacher)]
        like = pairs[0][0]
        dtype = torch.promote_types(like.dtype, torch.get_default_dtype())  # a dry run may be in half precision
        maps = nn.ModuleList(nn.Linear(s.shape[2], t.shape[2]) for s, t in pairs)
        self.projectors = maps.to(device=like.device, dtype=dtype)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Weighted relations within the images, to neighbours and to all tokens, summed over the pairs."""
        if len(self.projectors) != len(self.layers):
            raise InputError("TRG must be built with the outputs of a dry run before it is called, got no build()")
        terms = []
        for projector, pair in zip(self.projectors, self.pairs(student, teacher), strict=True):
            s, t = _tokens(*pair)
            terms.append(self.context_weight * trg_context(s, t))
            s, t = self._drawn(s, t)
            projected = projector(s)
            if self.gather:
                s, t, projected = gathered(s), gathered(t), gathered(projected)
            terms.append(self.local_weight * trg_local(_unit(s), _unit(t), self.neighbours, self.width))
            terms.append(self.global_weight * trg_global(projected, t, self.temperature))
        return torch.stack(terms).sum()

    def _drawn(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """The same tokens of both, one a row: ``(B, N, D)`` to ``(B n, D)``."""
        batch, count, _ = teacher.shape
        if count > self.tokens:
            draws = self.draws if self.training else Draws(self.draws.seed)
            device = teacher.device
            order = torch.rand(batch, count, generator=draws.generator(device), device=device).argsort(1)
            chosen = order[:, : self.tokens, None]
            student, teacher = (x.take_along_dim(chosen, 1) for x in (student, teacher))
        return student.flatten(0, 1), teacher.flatten(0, 1)


@fp32
def _unit(tokens: Tensor) -> Tensor:
    return unit(tokens)


def _tokens(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """One token a position of the smaller of two maps, for both."""
    s, t = same_size(as_map(student), as_map(teacher))
    return as_tokens(s), as_tokens(t)
