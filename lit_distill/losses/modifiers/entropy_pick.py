"""Only the samples of which the teacher is least certain."""

from typing import Any, Literal

import torch
from torch import Tensor

from lit_distill.core.outputs import Outputs
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import require
from lit_distill.losses.modifiers.mask import Mask
from lit_distill.losses.precision import fp32


@fp32
def entropy(logits: Tensor) -> Tensor:
    """The entropy of each answer in nats: ``(..., C) -> (...)``; classes with probability 0 add nothing.

    Example:
        >>> entropy(torch.tensor([[0.0, 0.0], [-torch.inf, 0.0]]))
        tensor([0.6931, 0.0000])
    """
    return torch.special.entr(logits.softmax(-1)).sum(-1)


class EntropyPick(Mask):
    r"""Only the samples count of which a network is least certain: the picking of CutMixPick.

    Paper: Wang et al., What Makes a "Good" Data Augmentation in Knowledge Distillation: A Statistical Perspective,
        NeurIPS 2022, https://arxiv.org/abs/2012.02909

    .. math:: \frac{1}{k} \sum_{b \in P} \ell_b, \qquad P = \text{the } k \text{ samples with the largest }
        H(p_b) = -\sum_c p_{bc} \log p_{bc}, \qquad k = \max(1, \mathrm{round}(\text{keep} \cdot B))

    with the probabilities p at temperature 1 and the term's value :math:`\ell_b` of sample b.

    CutMixPick makes two CutMix mixtures of each image and keeps half of them, beside the images themselves: data with
    ``WithMixtures(CutMix(), count=2)``, and this modifier in ``OnViews(..., views=3, which="others")``. The authors
    take weight 0.9 for ``KD`` at T = 4 on the images and as much on the mixtures that are picked, and cross entropy
    with weight 0.1 on the images. The preset ``cutmixpick_digits`` is this.

    Args:
        loss: The term to modify: any term on logits, another modifier included.
        keep: Share of the samples to keep, in (0, 1]; with 1 all count.
        whose: Whose entropy decides, the ``teacher``'s or the ``student``'s.
        mean_over: Divide the sum over the samples that are kept by the size of the batch (a sample that does not
            count pulls the term to 0) or by their number.

    Shape:
        Logits ``(B, C)`` of both; the term within gets the samples that are kept; output a scalar.

    Raises:
        InputError: If ``keep`` lies outside (0, 1], ``whose`` or ``mean_over`` is unknown; besides, as the term
            within.

    Traps:
        - Both networks see all candidates, while the authors show the student only those that are picked; the
          gradient is the same, but for batch statistics.
        - On several devices each picks among its own samples.
        - Of samples with equal entropy the first are kept.

    Code: ``MingSun-Tse/Good-DA-in-KD:helper/loops.py`` (cutmix_pick; ``teacher_entropy`` and ``student_entropy``),
        which picks as many mixtures as a batch has images.

    Example:
        >>> from lit_distill.losses import KD
        >>> student, teacher = Outputs(torch.zeros(2, 2)), Outputs(torch.tensor([[99.0, 0.0], [0.0, 0.0]]))
        >>> EntropyPick(KD(temperature=1.0))(student, teacher, torch.tensor([0, 0]))
        tensor(0.)
    """

    def __init__(
        self,
        loss: LogitLoss,
        keep: float = 0.5,
        whose: Literal["teacher", "student"] = "teacher",
        mean_over: Literal["batch", "kept"] = "kept",
        **kwargs: Any,
    ) -> None:
        super().__init__(loss, mean_over, **kwargs)
        require(0 < keep <= 1, "keep", keep, "in (0, 1]")
        require(whose in ("teacher", "student"), "whose", repr(whose), "teacher or student")
        self.keep = keep
        self.whose = whose

    def kept(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Where the entropy is among the largest."""
        uncertain = entropy((teacher if self.whose == "teacher" else student).logits.detach())
        size = max(1, round(self.keep * len(uncertain)))
        kept = torch.zeros_like(uncertain, dtype=torch.bool)
        return kept.index_fill(0, uncertain.argsort(descending=True, stable=True)[:size], True)
