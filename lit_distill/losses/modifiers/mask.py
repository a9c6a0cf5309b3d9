"""Terms on some of the samples."""

from typing import Any, Literal

import torch
from torch import Tensor

from lit_distill.core.outputs import Outputs
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import require
from lit_distill.losses.modifiers.base import Modifier, samples


class Mask(Modifier):
    r"""A modifier that lets only some of the samples count.

    A subclass implements :meth:`kept`. The term within hears of the samples that are kept and of no others, which
    also holds for one that compares samples with each other.

    Where none is kept the value is 0 with gradients of 0. The term within hears of the whole batch then: on one of
    several ranks it must not miss what ranks do together.

    Args:
        loss: The term to modify: any term on logits, another modifier included.
        mean_over: Divide the sum over the samples that are kept by the size of the batch (a sample that does not
            count pulls the term to 0) or by their number.

    Raises:
        InputError: If ``mean_over`` is unknown.
    """

    def __init__(self, loss: LogitLoss, mean_over: Literal["batch", "kept"] = "batch", **kwargs: Any) -> None:
        super().__init__(loss, **kwargs)
        require(mean_over in ("batch", "kept"), "mean_over", repr(mean_over), "batch or kept")
        self.mean_over = mean_over

    def kept(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Which samples count, bool ``(B,)``.

        Args:
            student: What the student said.
            teacher: What the teacher said.
            target: Class indices ``(B,)`` or class probabilities ``(B, C)``.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement kept(student, teacher, target)")

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """The term within, of the samples that count."""
        kept = self.kept(student, teacher, target)
        rows = kept.nonzero().squeeze(-1)  # the one place where an accelerator must be waited for
        share = len(rows) / len(kept) if self.mean_over == "batch" else float(len(rows) > 0)
        if len(rows) == 0:
            rows = torch.arange(len(kept), device=kept.device)
        student = samples(student, rows, self.layers)
        teacher = samples(teacher, rows, self.layers.values())
        return share * super().forward(student, teacher, target[rows])
