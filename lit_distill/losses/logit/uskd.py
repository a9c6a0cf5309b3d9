"""Self-distillation with customised soft labels: the student makes its own teacher."""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses.auxiliary import AuxiliaryHead
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import check_same_shape, require
from lit_distill.losses.divergences.rows import FLOOR, reduce_rows
from lit_distill.losses.gather import gathered
from lit_distill.losses.labels import hard_labels, ruled_out
from lit_distill.losses.precision import fp32

# Added to denominators, as in the authors' code.
SMALL = 1e-6


@fp32
def uskd(
    student: Tensor,
    weak: Tensor,
    target: Tensor,
    alpha: float = 1.0,
    beta: float = 0.1,
    mu: float = 0.005,
    mode: Literal["paper", "code"] = "code",
    gather: bool = False,
) -> Tensor:
    r"""Cross entropies with soft labels that the student makes of its own answer and that of a weak head.

    The formula, and what the modes are, stands in :class:`USKD`.

    Args:
        student: Logits of the student, ``(B, C)``.
        weak: Logits of the weak head, ``(B, C)``.
        target: Class indices ``(B,)``, or class probabilities ``(B, C)`` of which the likeliest class counts.
        alpha: Factor of the label's class.
        beta: Factor of the other classes.
        mu: Factor of the weak head's own cross entropy.
        mode: Formula of the paper or of the released code.
        gather: Take the mean confidence over the samples of all ranks.

    Returns:
        A scalar.

    Example:
        >>> uskd(torch.zeros(1, 4), torch.zeros(1, 4), torch.tensor([0]), beta=0.0, mu=0.0)
        tensor(1.3863)
    """
    check_same_shape(student, weak, "logits (here of the weak head)")
    labels = hard_labels(target, student)
    log_q = student.log_softmax(-1)
    log_label = log_q.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    sure = (2 * log_label.detach()).exp()
    mean = (gathered(sure) if gather else sure).mean()
    label = -(sure + 1 - mean) * log_label

    with torch.no_grad():
        ranked = _zipf(_scores(log_q if mode == "code" else log_q.exp(), weak.softmax(-1), labels))
        ranked = ranked.scatter(-1, labels.unsqueeze(-1), 0.0)
        ranked = ranked / ranked.sum(-1, keepdim=True)
    others = -(ranked * ruled_out(student, labels).log_softmax(-1).clamp(min=FLOOR)).sum(-1)
    return reduce_rows(alpha * label + beta * others) + mu * F.cross_entropy(weak, labels, label_smoothing=0.1)


def _scores(student: Tensor, weak: Tensor, labels: Tensor) -> Tensor:
    """What the classes are ranked by: what both heads say of them, each in units of what it leaves for them."""
    parts = [x / (1 - x.gather(-1, labels.unsqueeze(-1)) + SMALL) for x in (student, weak)]
    return parts[0] + parts[1]


def _zipf(scores: Tensor) -> Tensor:
    """The inverse of each class's rank, 1 for the highest score: ``(B, C) -> (B, C)``."""
    inverse = 1 / torch.arange(1, scores.shape[-1] + 1, dtype=scores.dtype, device=scores.device)
    return torch.empty_like(scores).scatter(-1, scores.argsort(-1, descending=True), inverse.expand_as(scores))


class USKD(LogitLoss):
    r"""The student teaches itself: the label's share from its confidence, that of the others from their ranks.

    Paper: Yang et al., From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with
        Normalized Loss and Customized Soft Labels, ICCV 2023, https://arxiv.org/abs/2303.13005

    .. math:: \frac{1}{B} \sum_b -\alpha \Big( q_y^2 + 1 - \frac{1}{B} \sum_{b'} q_{b'y}^2 \Big) \log q_y
        - \beta \sum_{c \neq y} \hat z_c \log \hat q_c - \mu \sum_c \Big( 0.9 \, [c = y] + \frac{0.1}{C} \Big) \log w_c

    with the student q, a weak head w on one of its features, the label y, the softmax :math:`\hat q` over the other
    classes, and their soft labels :math:`\hat z_c \propto 1 / r_c`, with the rank :math:`r_c` of class c among all
    classes by

    .. math:: \frac{q_c}{1 - q_y} + \frac{w_c}{1 - w_y}

    in mode ``paper``. The released code takes logarithms of q there (mode ``code``), so that a class that the student
    finds very unlikely is ranked low whatever the weak head says. Soft labels carry no gradient. The teacher of the
    run is not asked. The authors add it with weight 1 to cross entropy with weight 1.

    Args:
        layer: Path of the feature that the weak head sees, about two thirds up the student: a map or tokens, which
            are averaged, or a vector.
        alpha: Factor of the label's class.
        beta: Factor of the other classes.
        mu: Factor of the weak head's own cross entropy.
        mode: Formula of the paper or of the released code, see above.
        gather: Take the mean confidence over the samples of all ranks instead of this rank's alone; without it the
            value of the term depends on how many devices share the batch.

    Shape:
        Feature of the student ``(B, D, H, W)``, ``(B, N, D)`` or ``(B, D)``; its logits ``(B, C)``; target ``(B,)``,
        or ``(B, C)`` of which the likeliest class counts; output a scalar.

    Raises:
        InputError: If a factor is negative, ``mode`` is unknown, the feature has another shape, the target does not
            fit the logits, or the loss is called before :meth:`build`.

    Traps:
        - The value is not 0 for any student: all three are cross entropies.
        - The label itself has a rank, and is left out after: where it is first, the others begin at 1 / 2.
        - Under mixup the authors keep two labels a sample; here the likeliest counts.

    Code: ``yzd-v/cls_KD:mmcls/models/dis_losses/uskd.py``, equal to mode ``code`` for one label.

    Example:
        >>> outputs = Outputs(torch.zeros(2, 10), {"layer2": torch.randn(2, 32, 4, 4)})
        >>> loss = USKD(layer="layer2")
        >>> loss.build(outputs, outputs)
        >>> loss(outputs, outputs, torch.tensor([0, 3])).shape
        torch.Size([])
    """

    needs_teacher = False

    def __init__(
        self,
        layer: str,
        alpha: float = 1.0,
        beta: float = 0.1,
        mu: float = 0.005,
        mode: Literal["paper", "code"] = "code",
        gather: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, value in {"alpha": alpha, "beta": beta, "mu": mu}.items():
            require(value >= 0, name, value, "0 or positive")
        require(mode in ("paper", "code"), "mode", repr(mode), "paper or code")
        # nothing of the teacher is needed: its answer is there anyway
        self.layers = {layer: ""}
        self.alpha = alpha
        self.beta = beta
        self.mu = mu
        self.mode: Literal["paper", "code"] = mode
        self.gather = gather
        self.head: AuxiliaryHead | None = None

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Create the weak head, on the device of the feature.

        Args:
            student: What the student said about the example batch.
            teacher: Not asked.
        """
        ((layer, _),) = self.layers.items()
        self.head = AuxiliaryHead(student.features[layer], student.logits.shape[-1], path=layer)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """The three cross entropies with their factors, mean over the batch."""
        if self.head is None:
            raise InputError("USKD must be built with the outputs of a dry run before it is called, got no build()")
        ((layer, _),) = self.layers.items()
        weak = self.head(student.features[layer])
        return uskd(student.logits, weak, target, self.alpha, self.beta, self.mu, self.mode, self.gather)
