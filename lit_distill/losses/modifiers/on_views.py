"""Terms on some of the views that a batch stacks."""

from typing import Any, Literal

from torch import Tensor

from lit_distill.core.outputs import Outputs
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import require
from lit_distill.losses.modifiers.base import Modifier, samples


class OnViews(Modifier):
    r"""The term hears of the first view of every image alone, or of all others.

    Paper: Wang et al., What Makes a "Good" Data Augmentation in Knowledge Distillation: A Statistical Perspective,
        NeurIPS 2022 (terms of their own for images and for their mixtures), https://arxiv.org/abs/2012.02909

    .. math:: \ell(z_{1 \dots B}) \quad \text{or} \quad \ell(z_{B+1 \dots V B})

    of a batch that holds each of B images V times: the first views of all, then all second ones, and so on. Data with
    ``mix: WithMixtures`` give such batches with :math:`V = 1 + \text{count}`, and data with ``strong_view: true`` with
    :math:`V = 2`.

    Args:
        loss: The term to modify: any term on logits, another modifier included.
        views: How many views of each image a batch holds.
        which: The ``first`` view of each image, or the ``others``.

    Shape:
        Logits ``(V B, C)`` of both; the term within gets ``(B, C)`` or ``((V - 1) B, C)``; output that of the term
        within.

    Raises:
        InputError: If ``views`` is below 2, ``which`` is unknown, or the number of samples is no multiple of
            ``views``; besides, as the term within.

    Traps:
        - A batch of another number of views is cut in the wrong place, and nothing can notice.

    Code: ``MingSun-Tse/Good-DA-in-KD:helper/loops.py`` (train_distill; the terms of ``lw_mix``), in two forward
        passes there.

    Example:
        >>> import torch
        >>> from lit_distill.losses import CrossEntropy
        >>> logits = Outputs(torch.tensor([[99.0, 0.0], [0.0, 99.0], [0.0, 0.0], [0.0, 0.0]]))
        >>> target = torch.tensor([0, 1, 0, 1])
        >>> OnViews(CrossEntropy(), views=2)(logits, logits, target)
        tensor(0.)
        >>> OnViews(CrossEntropy(), views=2, which="others")(logits, logits, target)
        tensor(0.6931)
    """

    def __init__(
        self, loss: LogitLoss, views: int = 2, which: Literal["first", "others"] = "first", **kwargs: Any
    ) -> None:
        super().__init__(loss, **kwargs)
        require(views >= 2, "views", views, "at least 2")
        require(which in ("first", "others"), "which", repr(which), "first or others")
        self.views = views
        self.which = which

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """The term within, of some of the views."""
        size = len(student.logits)
        require(size % self.views == 0, "batch", f"{size} samples", f"a multiple of {self.views} views")
        first = size // self.views
        rows = slice(first) if self.which == "first" else slice(first, size)
        student = samples(student, rows, self.layers)
        teacher = samples(teacher, rows, self.layers.values())
        return super().forward(student, teacher, target[rows])
