"""How alike the tokens of one image are to each other."""

import torch
from torch import Tensor, nn

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses.base import RelationalLoss
from lit_distill.losses.checks import check_temperature, require
from lit_distill.losses.directions import unit
from lit_distill.losses.divergences.kl import forward_kl
from lit_distill.losses.precision import fp32
from lit_distill.losses.products import products
from lit_distill.losses.views import as_map, as_tokens, resized


@fp32
def token_relation(student: Tensor, teacher: Tensor, temperature: float | Tensor = 0.07) -> Tensor:
    r"""Divergence between the similarities of tokens; the formula stands in :class:`TokenRelation`.

    Args:
        student: Tokens of the student, ``(B, N, D_s)``.
        teacher: Tokens of the teacher, ``(B, N, D_t)``.
        temperature: Divides the cosines.

    Returns:
        A scalar, the mean over samples and tokens.

    Raises:
        InputError: If they are not as many tokens of the same samples.

    Example:
        >>> x = torch.randn(2, 5, 3)
        >>> token_relation(3 * x, x) < 1e-6
        tensor(True)
    """
    check_temperature(temperature)
    require(
        student.dim() == teacher.dim() == 3 and student.shape[:2] == teacher.shape[:2],
        "student and teacher tokens",
        f"{tuple(student.shape)} and {tuple(teacher.shape)}",
        "(B, N, D), as many of the same samples",
    )
    s, t = (products(unit(x, 2)) for x in (student, teacher))
    return forward_kl(s, t, temperature).mean()


class TokenRelation(RelationalLoss):
    r"""A token of an image resembles each other one as much as it does for the teacher.

    Paper: Wang et al., MiniLMv2: Multi-Head Self-Attention Relation Distillation for Compressing Pretrained
        Transformers, ACL Findings 2021, https://arxiv.org/abs/2012.15828

    .. math:: \sum_{(s, t)} \frac{1}{B N} \sum_{bi} \mathrm{KL} \Big( \mathrm{softmax}_j \frac{\cos(x^t_{bi},
        x^t_{bj})}{T} \,\Big\|\, \mathrm{softmax}_j \frac{\cos(x^s_{bi}, x^s_{bj})}{T} \Big), \quad x^s = P f^s

    with the tokens of one image, and a linear map P to the teacher's channels, which is trained with the student and
    dropped after. MiniLMv2 compares scaled products of queries, keys and values in this way, head by head;
    ``lightly-train`` cosines of the last features, as here, with weight 1 beside :class:`QueueKL`.

    Args:
        temperature: Divides the cosines, T.
        layers: Student module path to teacher module path. Default: the last map or block of both networks.
        weight: Factor of this term in the total.
        teacher: Name of the ensemble member this term listens to; default: the teacher as a whole.

    Shape:
        Maps ``(B, C, H, W)`` or tokens ``(B, N, D)``, of which those before a square map (class and distillation token,
        registers) are left out. The student's map is brought to the size of the teacher's. Output a scalar, summed over
        the pairs.

    Raises:
        InputError: If the temperature is not positive, an activation is no map or tokens, or the loss is called before
            :meth:`build`.

    Traps:
        - Memory for B N² numbers.
        - Every row has the token itself, with cosine 1 on both sides: at a low temperature most of a row's probability
          is there.
        - Of a teacher whose map has one position there is nothing to learn.

    Code: ``lightly-ai/lightly-train:src/lightly_train/_methods/distillationv3``, equal to this where the student's map
        is not larger than the teacher's; there a larger one is interpolated too, here it is averaged.

    Example:
        >>> student = Outputs(torch.zeros(2, 10), {"layer3": torch.randn(2, 4, 4, 4)})
        >>> teacher = Outputs(torch.zeros(2, 10), {"blocks.11": torch.randn(2, 17, 8)})
        >>> loss = TokenRelation(layers={"layer3": "blocks.11"})
        >>> loss.build(student, teacher)
        >>> loss(student, teacher, torch.tensor([0, 3])).shape
        torch.Size([])
    """

    def __init__(
        self,
        temperature: float = 0.07,
        layers: dict[str, str] | None = None,
        weight: float = 1.0,
        teacher: str | None = None,
    ) -> None:
        super().__init__(layers=layers, weight=weight, teacher=teacher)
        check_temperature(temperature)
        self.temperature = temperature
        self.projectors = nn.ModuleList()

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Create the linear map of each pair, on the device of the student's activations.

        Args:
            student: What the student said about the example batch.
            teacher: What the teacher said about it.
        """
        pairs = [(as_map(s), as_map(t)) for s, t in self.pairs(student, teacher)]
        like = pairs[0][0]
        dtype = torch.promote_types(like.dtype, torch.get_default_dtype())  # a dry run may be in half precision
        maps = nn.ModuleList(nn.Linear(s.shape[1], t.shape[1]) for s, t in pairs)
        self.projectors = maps.to(device=like.device, dtype=dtype)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Divergences of the similarities, summed over the pairs."""
        if len(self.projectors) != len(self.layers):
            raise InputError(
                "TokenRelation must be built with the outputs of a dry run before it is called, got no build()"
            )
        terms = []
        for projector, (s, t) in zip(self.projectors, self.pairs(student, teacher), strict=True):
            s, t = as_map(s), as_map(t)
            tokens = projector(as_tokens(resized(s, (t.shape[2], t.shape[3]))))
            terms.append(token_relation(tokens, as_tokens(t), self.temperature))
        return torch.stack(terms).sum()
