"""Only samples of which the teacher is certain."""

from typing import Any, Literal

from torch import Tensor

from lit_distill.core.outputs import Outputs
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import require
from lit_distill.losses.modifiers.mask import Mask
from lit_distill.losses.precision import fp32


@fp32
def confidence(logits: Tensor) -> Tensor:
    """The largest probability of each sample: ``(..., C) -> (...)``.

    Example:
        >>> import torch
        >>> confidence(torch.zeros(1, 4))
        tensor([0.2500])
    """
    return logits.softmax(-1).amax(-1)


class ConfidenceMask(Mask):
    r"""Only the samples count of which the teacher is certain enough.

    Paper: Zhang et al., Cross-View Consistency Regularisation for Knowledge Distillation, ACM MM 2024
        (confidence-based soft label mining), https://arxiv.org/abs/2412.16493

    .. math:: \frac{1}{B} \sum_b \Big[ \max_c p_{bc} \ge \tau \Big] \, \ell_b

    with the teacher's probabilities p at temperature 1 and the term's value :math:`\ell_b` of sample b. The authors
    take :math:`\tau = 0.9` for weakly and 0.2 for strongly augmented images.

    Args:
        loss: The term to modify: any term on logits, another modifier included.
        threshold: The least probability of the teacher's favourite class, in [0, 1]; with 0 all samples count.
        mean_over: Divide the sum over the samples that are kept by the size of the batch (a sample that does not
            count pulls the term to 0) or by their number.

    Shape:
        Logits ``(B, C)`` of both; the term within gets the samples that are kept; output a scalar.

    Raises:
        InputError: If ``threshold`` lies outside [0, 1] or ``mean_over`` is unknown; besides, as the term within.

    Traps:
        - The confidence is that of the logits this modifier hears: within ``Standardised`` it rarely comes near 1,
          within ``NoisyTeacher`` it is that of the disturbed answer.
        - With ``mean_over: kept`` each of several devices divides by its own number, so the samples do not all
          count alike.
        - A batch without a single kept sample has the value 0, and the term within hears of all of it nevertheless.

    Code: ``scx-822/CRLD-main:mdistiller/distillers/CRLD.py``, a public copy of the authors' repository. There the
        confidence of one view decides about both, here each sample's own; both divide by the batch.

    Example:
        >>> import torch
        >>> from lit_distill.losses import KD
        >>> student, teacher = Outputs(torch.zeros(2, 2)), Outputs(torch.tensor([[99.0, 0.0], [1.0, 0.0]]))
        >>> ConfidenceMask(KD(temperature=1.0))(student, teacher, torch.tensor([0, 0]))  # log 2, over two samples
        tensor(0.3466)
    """

    def __init__(
        self,
        loss: LogitLoss,
        threshold: float = 0.9,
        mean_over: Literal["batch", "kept"] = "batch",
        **kwargs: Any,
    ) -> None:
        super().__init__(loss, mean_over, **kwargs)
        require(0 <= threshold <= 1, "threshold", threshold, "in [0, 1]")
        self.threshold = threshold

    def kept(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Where the teacher's largest probability reaches the threshold."""
        return confidence(teacher.logits) >= self.threshold
