"""Any divergence as a term of an objective."""

from typing import Any

from torch import Tensor

from lit_distill.core.outputs import Outputs
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import check_temperature
from lit_distill.losses.divergences.base import Divergence
from lit_distill.losses.divergences.rows import reduce_rows


class DivergenceKD(LogitLoss):
    r"""Any divergence between the probabilities of teacher and student.

    Paper: Wang et al., ABKD: Pursuing a Proper Allocation of the Probability Mass in Knowledge Distillation
        via alpha-beta-Divergence, ICML 2025 (one family of divergences for images and text),
        https://arxiv.org/abs/2505.04560

    .. math:: \frac{T^2}{B} \sum_b D\big( \mathrm{softmax}(z^t_b / T), \mathrm{softmax}(z^s_b / T) \big)

    The factor :math:`T^2` keeps the gradient's size about constant when the temperature changes; divergences
    carry none of their own. With ``ForwardKL`` this is ``KD``.

    Args:
        divergence: What is measured between the two distributions: ``ForwardKL``, ``ReverseKL``, ``MixedKL``,
            ``JSD``, ``NormalisedJSD``, ``SkewForwardKL``, ``SkewReverseKL``, ``TVD``, ``AlphaBeta``,
            ``AdaptiveKL`` or your own.
        temperature: Divides the logits of both networks before the softmax.

    Shape:
        Logits ``(B, C)`` of both; output a scalar.

    Raises:
        InputError: If the temperature is not positive or the shapes of the logits differ.

    Traps:
        - Of the released code for language models most (TRL, DSKD, Liger) applies no factor :math:`T^2`:
          divide the weight by it to compare.

    Code: ``ghwang-s/abkd:base_to_new_classification/losses/abkl.py`` for images; any divergence fits here.

    Example:
        >>> import torch
        >>> from lit_distill.losses.divergences import TVD
        >>> student, teacher = Outputs(torch.tensor([[50.0, 0.0]])), Outputs(torch.tensor([[0.0, 50.0]]))
        >>> DivergenceKD(TVD(), temperature=2.0)(student, teacher, torch.tensor([1]))
        tensor(4.)
    """

    def __init__(self, divergence: Divergence, temperature: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_temperature(temperature)
        self.divergence = divergence
        self.temperature = temperature

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Mean divergence of the batch, times the square of the temperature."""
        rows = self.divergence(student.logits, teacher.logits, self.temperature)
        return self.temperature**2 * reduce_rows(rows)
