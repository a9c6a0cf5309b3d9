"""Only samples that the teacher gets right."""

from typing import Any, Literal

from torch import Tensor

from lit_distill.core.outputs import Outputs
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.labels import hard_labels
from lit_distill.losses.modifiers.mask import Mask


class CorrectnessMask(Mask):
    r"""Only the samples count that the teacher gets right (guided distillation).

    Paper: Zhou et al., Channel Distillation: Channel-Wise Attention for Knowledge Distillation, arXiv 2020 (GKD),
        https://arxiv.org/abs/2006.01683

    .. math:: \frac{\sum_b m_b \, \ell_b}{\sum_b m_b}, \qquad m_b = \Big[ \arg\max_c z^t_{bc} = y_b \Big]

    with the term's value :math:`\ell_b` of sample b; the student never hears an answer that contradicts the label.

    Args:
        loss: The term to modify: any term on logits, another modifier included.
        mean_over: Divide the sum over the samples that are kept by the size of the batch (a sample that does not
            count pulls the term to 0) or by their number.

    Shape:
        Logits ``(B, C)`` of both; target ``(B,)``, or ``(B, C)`` of which the likeliest class counts; the term
        within gets the samples that are kept; output a scalar.

    Raises:
        InputError: If ``mean_over`` is unknown or the target does not fit the logits; besides, as the term within.

    Traps:
        - On the images it was trained on a teacher is nearly always right, and little changes.
        - With ``mean_over: kept`` each of several devices divides by its own number, so the samples do not all
          count alike.
        - A batch without a single kept sample has the value 0 (in the authors' code nan), and the term within hears
          of all of it nevertheless.

    Code: ``zhouzaida/channel-distillation:losses/kd_loss.py`` (KDLossv2), equal to this around ``KD``.

    Example:
        >>> import torch
        >>> from lit_distill.losses import KD
        >>> student, teacher = Outputs(torch.zeros(2, 2)), Outputs(torch.tensor([[9.0, 0.0], [9.0, 0.0]]))
        >>> CorrectnessMask(KD())(student, teacher, torch.tensor([1, 1]))
        tensor(0.)
    """

    def __init__(self, loss: LogitLoss, mean_over: Literal["batch", "kept"] = "kept", **kwargs: Any) -> None:
        super().__init__(loss, mean_over, **kwargs)

    def kept(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Where the teacher's favourite class is the label."""
        return teacher.logits.argmax(-1) == hard_labels(target, teacher.logits)
