"""Cross entropy with the labels."""

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import check_temperature, require
from lit_distill.losses.divergences.rows import divided
from lit_distill.losses.precision import fp32


class CrossEntropy(LogitLoss):
    r"""Cross entropy of the student with the labels; the teacher is not asked.

    Paper: Szegedy et al., Rethinking the Inception Architecture for Computer Vision, CVPR 2016 (label
        smoothing), https://arxiv.org/abs/1512.00567

    .. math:: -\frac{1}{B} \sum_b \sum_c \Big( (1 - \epsilon) y_{bc} + \frac{\epsilon}{C} \Big) \log q_{bc}

    with the student's probabilities q, softened by T, and the label y, one class or a distribution.

    A temperature belongs to defensive distillation (Papernot et al., Distillation as a Defense to Adversarial
    Perturbations against Deep Neural Networks, IEEE S&P 2016, https://arxiv.org/abs/1511.04508): a teacher is trained
    with this term at T = 20 to 100, then a student of the same architecture with ``KD`` at the same T alone, and the
    student is used at T = 1. Presets: ``teachers/defensive_mlp_digits`` and ``logit/defensive_digits``.

    Args:
        label_smoothing: Share of the label that goes to all classes alike, in [0, 1].
        temperature: Divides the logits before the softmax. The value is not multiplied by its square.

    Shape:
        Student logits ``(B, C)``; target class indices ``(B,)``, or class probabilities ``(B, C)``; output a
        scalar.

    Raises:
        InputError: If ``label_smoothing`` lies outside [0, 1], the temperature is not positive, or the target fits
            neither form.

    Traps:
        - Where mixup and the data already smooth the labels, ``label_smoothing`` does so a second time.
        - A network trained at T learns logits T times as large. Used at T = 1 its softmax is 0 or 1 up to rounding for
          most inputs: calibration is lost, and so is the gradient that FGSM follows. Attacks on the logits (Carlini and
          Wagner, https://arxiv.org/abs/1608.04644) succeed as ever: it hides the gradient and is no defence.

    Code: ``pytorch/pytorch:torch/nn/functional.py`` (cross_entropy), which this is; with a temperature
        ``carlini/nn_robust_attacks:train_models.py``, equal to this.

    Example:
        >>> import torch
        >>> outputs = Outputs(torch.zeros(2, 4))
        >>> CrossEntropy()(outputs, outputs, torch.tensor([0, 3]))
        tensor(1.3863)
    """

    needs_teacher = False

    def __init__(self, label_smoothing: float = 0.0, temperature: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require(0 <= label_smoothing <= 1, "label_smoothing", label_smoothing, "in [0, 1]")
        check_temperature(temperature)
        self.label_smoothing = label_smoothing
        self.temperature = temperature

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Mean cross entropy of the batch."""
        logits = student.logits
        hard = target.shape == logits.shape[:1] and not target.is_floating_point()
        soft = target.shape == logits.shape and target.is_floating_point()
        if not hard and not soft:
            raise InputError(
                f"target must be class indices {tuple(logits.shape[:1])} or class probabilities "
                f"{tuple(logits.shape)}, got {target.dtype} {tuple(target.shape)}"
            )
        return _cross_entropy(logits, target, self.label_smoothing, self.temperature)


@fp32
def _cross_entropy(logits: Tensor, target: Tensor, label_smoothing: float, temperature: float) -> Tensor:
    return F.cross_entropy(divided(logits, temperature), target, label_smoothing=label_smoothing)
