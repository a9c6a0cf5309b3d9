"""Hierarchical self-distillation: one objective at several depths of a network."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lit_distill.core.outputs import Outputs
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import require
from lit_distill.losses.modifiers.base import Modifier


def hierarchical(terms: Sequence[Tensor], layers: Sequence[int], depth: int) -> Tensor:
    r"""Sum of terms at several layers, each weighted by how deep its layer is.

    .. math:: \sum_i \frac{l_i}{L} \, \ell_i

    Args:
        terms: Value of the objective at each exit, scalars.
        layers: How many layers each exit stands on.
        depth: How many layers the network has.

    Returns:
        A scalar.

    Example:
        >>> hierarchical([torch.tensor(2.0), torch.tensor(1.0)], layers=[18, 36], depth=36)
        tensor(2.)
    """
    return torch.stack([layer / depth * term for layer, term in zip(layers, terms, strict=True)]).sum()


class Hierarchical(Modifier):
    r"""Any term on logits is applied at every exit of a network, and counts the more the deeper the exit.

    Paper: Gurioli et al., MoSE: Hierarchical Self-Distillation Enhances Early Layer Embeddings (first called One Model
        to Train them All), AAAI 2026, https://arxiv.org/abs/2503.03008

    .. math:: \sum_i \frac{l_i}{L} \, \ell \big( z^{(i)}, z^t, y \big)

    over the exits i and the network itself, with the term :math:`\ell` within, the logits :math:`z^{(i)}` of an exit
    that stands on :math:`l_i` of the network's L layers, and the network's own weight 1. The layers below an exit
    learn from all exits above it: this is what the paper calls self-distillation. It takes exits at the layers 4, 9,
    18 and 27 of 36, and cross entropies within.

    Around a term that learns from a teacher it does more: without a teacher in the run, ``Hierarchical(KD())`` teaches
    each exit what the deepest one answers, through which no gradient flows; with one, every exit learns from it.

    For students of :class:`~lit_distill.models.MultiExit`, whose exits ``early`` and ``middle`` are ``exits.early``
    and ``exits.middle``, and for any network with classifiers on the way.

    Args:
        loss: The term within: any on logits alone.
        exits: Module path of each of the student's exits, which give logits, to the number of layers it stands on.
        depth: How many layers the network has; an exit stands on fewer.

    Shape:
        Logits ``(B, C)`` of the student, of its exits and of the teacher; output a scalar, summed over the exits.

    Raises:
        InputError: If there is no exit, one stands on no layer or on as many as the network has, or the term within
            compares features; besides, as the term within.

    Traps:
        - The network's own term is here, with weight 1: leave out a cross entropy beside it.
        - The sum grows with the number of exits.

    Code: ``modularStarEncoder/ModularStarEncoder:modularStarEncoder.py`` on Hugging Face, the model. The classifiers
        of its exits share their weights and are told the number of the layer; those of ``MultiExit`` are separate,
        as in the paper's fine-tuning.

    Example:
        >>> from lit_distill.losses import CrossEntropy
        >>> student = Outputs(torch.zeros(2, 4), {"exits.early": torch.zeros(2, 4)})
        >>> loss = Hierarchical(CrossEntropy(), exits={"exits.early": 1}, depth=2)
        >>> loss(student, student, torch.tensor([0, 3])) / CrossEntropy()(student, student, torch.tensor([0, 3]))
        tensor(1.5000)
    """

    needs_teacher = False

    def __init__(self, loss: LogitLoss, exits: dict[str, int], depth: int, **kwargs: Any) -> None:
        super().__init__(loss, **kwargs)
        require(not loss.layers, "loss", type(loss).__name__, "a term on logits alone")
        require(len(exits) > 0, "exits", exits, "{module path of the student: number of layers}")
        require(all(0 < n < depth for n in exits.values()), "exits", exits, f"between 1 and {depth - 1} of the layers")
        # an exit is compared with the teacher as a whole, whose path is empty
        self.layers = dict.fromkeys(exits, "")
        self.exits = dict(exits)
        self.depth = depth

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """The term within at each exit and at the end, weighted and summed."""
        within = super().forward
        answers = [*(student.features[path] for path in self.exits), student.logits]
        terms = [within(student._replace(logits=logits), teacher, target) for logits in answers]
        return hierarchical(terms, [*self.exits.values(), self.depth], self.depth)
