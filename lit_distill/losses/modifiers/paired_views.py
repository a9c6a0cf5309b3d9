"""Two views of each image in one batch."""

from typing import Any, Literal

import torch
from torch import Tensor

from lit_distill.core.outputs import Outputs
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import require
from lit_distill.losses.modifiers.base import Modifier, samples


class PairedViews(Modifier):
    r"""The teacher's answer about one view of an image teaches the student about another view of it.

    Paper: Zhang et al., Cross-View Consistency Regularisation for Knowledge Distillation, ACM MM 2024,
        https://arxiv.org/abs/2412.16493; first in Xie et al., Unsupervised Data Augmentation for Consistency Training,
        NeurIPS 2020, https://arxiv.org/abs/1904.12848

    .. math:: \ell \big( z^s(x_{\mathrm{strong}}), \; z^t(x_{\mathrm{weak}}) \big)

    Without a teacher the student's own answer about the other view teaches it (self-distillation).

    A batch holds each image twice: all weakly augmented views first, then all strongly augmented ones in the same
    order, and the labels twice; data modules with ``strong_view: true`` give such batches. Each network sees this batch
    as it is.

    Args:
        loss: The term to modify: any term on logits, another modifier included.
        pairs: Which view of the student goes with which of the teacher. ``strong_from_weak``: its strong view with
            the teacher's weak one, and the student's weak view does not count; ``crossed``: each view with the
            other one; ``within``: each view with itself, as without this modifier.

    Shape:
        Logits ``(2 B, C)`` of both, weak views first; the term within gets ``(B, C)``, or ``(2 B, C)`` unless
        ``strong_from_weak``; output that of the term within.

    Raises:
        InputError: If ``pairs`` is unknown or the number of samples is odd; besides, as the term within.

    Traps:
        - Views that are mixed with other images must be mixed alike: the label is that of the student's view.
        - CRLD's within-view and cross-view losses are sums over both views; the terms here are means.
        - A batch of 2 B samples that are no views pairs strangers, and nothing can notice.

    Code: ``scx-822/CRLD-main:mdistiller/distillers/CRLD.py``, a public copy of the authors' repository; ``crossed``
        around ``KD`` is half of its cross-view loss without its confidence masks.

    Example:
        >>> from lit_distill.losses import KD
        >>> weak, strong = torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0]])
        >>> student, teacher = Outputs(torch.cat([strong, weak])), Outputs(torch.cat([weak, strong]))
        >>> PairedViews(KD())(student, teacher, torch.tensor([0, 0]))
        tensor(0.)
    """

    needs_teacher = False

    def __init__(
        self,
        loss: LogitLoss,
        pairs: Literal["strong_from_weak", "crossed", "within"] = "strong_from_weak",
        **kwargs: Any,
    ) -> None:
        super().__init__(loss, **kwargs)
        accepted = ("strong_from_weak", "crossed", "within")
        require(pairs in accepted, "pairs", repr(pairs), f"one of {', '.join(accepted)}")
        self.pairs = pairs

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """The term within, of the pairs of views."""
        size = len(student.logits)
        require(size % 2 == 0, "batch", f"{size} samples", "an even number: all weak views, then all strong ones")
        if self.pairs == "strong_from_weak":
            weak, strong = slice(size // 2), slice(size // 2, size)
            student, target = samples(student, strong, self.layers), target[strong]
            teacher = samples(teacher, weak, self.layers.values())
        elif self.pairs == "crossed":
            other = torch.arange(size, device=teacher.logits.device).roll(size // 2)
            teacher = samples(teacher, other, self.layers.values())
        return super().forward(student, teacher, target)
