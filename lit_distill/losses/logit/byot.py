"""Be your own teacher: the end of a network teaches its exits."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import check_same_shape, check_temperature, require
from lit_distill.losses.divergences.kl import forward_kl
from lit_distill.losses.divergences.rows import reduce_rows
from lit_distill.losses.precision import fp32


@fp32
def byot(
    exit_logits: Tensor, deepest: Tensor, target: Tensor, alpha: float = 0.3, temperature: float | Tensor = 3.0
) -> Tensor:
    r"""Cross entropy of an exit with the labels, and its divergence from the deepest classifier.

    .. math:: \frac{1}{B} \sum_b -(1 - \alpha) \log q^i_{b, y_b} + \alpha \, \mathrm{KL} \big(
        \mathrm{softmax}(z^C_b / T) \,\|\, \mathrm{softmax}(z^i_b / T) \big)

    Args:
        exit_logits: Logits of the exit, ``(B, C)``.
        deepest: Logits of the deepest classifier, ``(B, C)``; no gradient flows into them.
        target: Class indices ``(B,)`` or class probabilities ``(B, C)``.
        alpha: Share of the deepest classifier.
        temperature: Divides both logits in the divergence, which is not multiplied by its square.

    Returns:
        A scalar.

    Example:
        >>> byot(torch.zeros(1, 4), torch.zeros(1, 4), torch.tensor([2]), alpha=0.5)
        tensor(0.6931)
    """
    divergence = reduce_rows(forward_kl(exit_logits, deepest.detach(), temperature=temperature))
    return (1 - alpha) * F.cross_entropy(exit_logits, target) + alpha * divergence


@fp32
def byot_hint(feature: Tensor, deepest: Tensor) -> Tensor:
    r"""Squared distance of what an exit's classifier sees from what the deepest one sees.

    .. math:: \frac{1}{B} \sum_b \| F^i_b - F^C_b \|_2^2

    Args:
        feature: What the exit's classifier sees, ``(B, D)``; further axes count as features.
        deepest: What the deepest classifier sees, of the same shape; no gradient flows into it.

    Returns:
        A scalar: summed over the features, mean over the samples.

    Example:
        >>> byot_hint(torch.ones(2, 3), torch.zeros(2, 3))
        tensor(3.)
    """
    check_same_shape(feature, deepest, "features (here of an exit and of the deepest classifier)")
    return reduce_rows((feature - deepest.detach()).square().flatten(1).sum(1))


class BYOT(LogitLoss):
    r"""Exits on the way through a network learn from the labels, from its own answer and from its last feature.

    Paper: Zhang et al., Be Your Own Teacher: Improve the Performance of Convolutional Neural Networks via Self
        Distillation, ICCV 2019, https://arxiv.org/abs/1905.08094

    .. math:: \sum_{i < C} \frac{1}{B} \sum_b -(1 - \alpha) \log q^i_{b, y_b} + \alpha \, \mathrm{KL} \big(
        \mathrm{softmax}(z^C_b / T) \,\|\, \mathrm{softmax}(z^i_b / T) \big) + \lambda \| F^i_b - F^C_b \|_2^2

    over the exits i, with their logits z, probabilities q and the features F that their classifiers see; C is the
    deepest exit, the network itself. It teaches and is not taught: no gradient of this term flows into its logits
    :math:`z^C` and its feature :math:`F^C`, and it learns from the labels alone, by cross entropy with weight 1 beside
    this term. A teacher of the run is not asked; ``KD`` beside this term teaches the deepest exit, which passes it on.

    For students of :class:`~lit_distill.models.MultiExit`, whose exits ``early`` and ``middle`` are ``exits.early``
    and ``exits.middle``, and for any network with classifiers on the way. The paper puts an exit behind each of the
    stages of a network but the last; with the exits the inference can end early
    (:class:`~lit_distill.models.EarlyExit`).

    Args:
        exits: Module paths of the student's exits, which give logits; the linear layer of each is its module ``fc``.
        alpha: Share of the deepest exit beside the labels, in [0, 1].
        hint: Factor of the distance between features; 0 leaves it out, and no feature is asked for.
        temperature: Divides the logits in the divergence.
        classifier: Module path of the student's deepest classifier, a linear layer.

    Shape:
        Logits ``(B, C)`` of the student and of its exits; features of all of them ``(B, D)``; target ``(B,)`` or
        ``(B, C)``; output a scalar, summed over the exits.

    Raises:
        InputError: If there is no exit, ``alpha`` lies outside [0, 1], ``hint`` is negative, the temperature is not
            positive, or the logits or features of an exit have another shape than the deepest ones.

    Traps:
        - No factor :math:`T^2`, in the paper and in the authors' code.
        - Without cross entropy beside it nothing teaches the deepest exit.
        - The distance is a sum over features: with more of them ``hint`` weighs more. All defaults are those of the
          authors' later code, where it is another distance.

    Code: ``ArchipLab-LinfengZhang/pytorch-self-distillation-final:train.py``, of the journal version of the paper. It
        differs in the hint: the norm over the whole batch and not its square, of the feature behind one more
        linear layer, and none for the shallowest exit. Its cross entropy with soft labels has the gradient of the
        divergence. ``luanyunteng/pytorch-be-your-own-teacher:train.py``, by others, multiplies by :math:`T^2` and
        weighs the cross entropy of the deepest exit with :math:`1 - \alpha` too.

    Example:
        >>> seen = {"exits.early": torch.zeros(2, 4), "exits.early.fc:input": torch.ones(2, 8)}
        >>> student = Outputs(torch.zeros(2, 4), {**seen, "network.fc:input": torch.zeros(2, 8)})
        >>> BYOT(exits=["exits.early"], alpha=1.0, hint=0.5)(student, student, torch.tensor([0, 3]))
        tensor(4.)
    """

    needs_teacher = False

    def __init__(
        self,
        exits: list[str],
        alpha: float = 0.3,
        hint: float = 0.03,
        temperature: float = 3.0,
        classifier: str = "network.fc",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        require(len(exits) > 0, "exits", exits, "module paths of the student")
        require(0 <= alpha <= 1, "alpha", alpha, "in [0, 1]")
        require(hint >= 0, "hint", hint, "0 or positive")
        check_temperature(temperature)
        self.exits = list(exits)
        self.features = [f"{path}.fc:input" for path in exits] if hint else []
        self.deepest = f"{classifier}:input"
        # all of it is the student's: the path of whatever network is the teacher is the whole one, which is empty
        self.layers = dict.fromkeys([*self.exits, *self.features, *([self.deepest] if hint else [])], "")
        self.alpha = alpha
        self.hint = hint
        self.temperature = temperature

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """What the exits have to learn, summed over them."""
        seen = student.features
        terms = [byot(seen[path], student.logits, target, self.alpha, self.temperature) for path in self.exits]
        terms += [self.hint * byot_hint(seen[path], seen[self.deepest]) for path in self.features]
        return torch.stack(terms).sum()
