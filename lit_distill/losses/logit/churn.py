"""Churn reduction: a new model learns from the labels and from the model that it is to replace."""

from typing import Any

import torch
from torch import Tensor

from lit_distill.core.outputs import Outputs
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import check_same_shape, require
from lit_distill.losses.divergences.rows import cross_entropy_rows, reduce_rows
from lit_distill.losses.labels import hard_labels
from lit_distill.losses.precision import fp32


@fp32
def churn_reduction(student: Tensor, teacher: Tensor, target: Tensor, mixing: float = 0.5) -> Tensor:
    r"""Cross entropy with a mixture of the base model's answer and the label.

    The formula is that of :class:`ChurnReduction`.

    Args:
        student: Logits of the new model, ``(B, C)``.
        teacher: Logits of the base model, ``(B, C)``.
        target: Class indices ``(B,)``, or class probabilities ``(B, C)``.
        mixing: Share of the base model's answer in the target.

    Returns:
        A scalar.

    Example:
        >>> base = torch.tensor([[50.0, 0.0, 0.0, 0.0]])
        >>> churn_reduction(torch.zeros(1, 4), base, torch.tensor([2]), mixing=0.3)
        tensor(1.3863)
    """
    check_same_shape(student, teacher, "logits")
    return _cross_entropy(student, teacher, target, mixing, 1 - mixing)


def _cross_entropy(
    student: Tensor, teacher: Tensor, target: Tensor, base: float | Tensor, label: float | Tensor
) -> Tensor:
    """Cross entropy with shares of the base model's answer and of the label, each a number or one a row ``(B, 1)``."""
    labels = hard_labels(target, student).unsqueeze(-1)
    weights = base * teacher.softmax(-1)
    if target.is_floating_point():
        weights = weights + label * target
    else:
        weights = weights.scatter_add(-1, labels, torch.as_tensor(label).to(weights).expand(labels.shape))
    return reduce_rows(cross_entropy_rows(student, weights))


@fp32
def anchor_rcp(student: Tensor, teacher: Tensor, target: Tensor, alpha: float = 0.5, epsilon: float = 0.5) -> Tensor:
    r"""Cross entropy with a mixture where the base model is right, and a share of that with the label elsewhere.

    The formula is that of :class:`AnchorRCP`.

    Args:
        student: Logits of the new model, ``(B, C)``.
        teacher: Logits of the base model, ``(B, C)``.
        target: Class indices ``(B,)``, or class probabilities ``(B, C)`` of which the likeliest class tells whether
            the base model is right.
        alpha: Share of the base model's answer in the target where it is right.
        epsilon: What a sample counts for where it is wrong.

    Returns:
        A scalar.

    Example:
        >>> base = torch.tensor([[50.0, 0.0, 0.0, 0.0]])
        >>> anchor_rcp(torch.zeros(1, 4), base, torch.tensor([2]), epsilon=0.5)
        tensor(0.6931)
    """
    check_same_shape(student, teacher, "logits")
    right = (teacher.argmax(-1) == hard_labels(target, teacher)).unsqueeze(-1).to(teacher.dtype)
    return _cross_entropy(student, teacher, target, alpha * right, epsilon + (1 - alpha - epsilon) * right)


class ChurnReduction(LogitLoss):
    r"""The labels are mixed with the answers of the model in use, so that its successor changes fewer of them.

    Paper: Jiang, Narasimhan, Bahri, Cotter, Rostamizadeh, Churn Reduction via Distillation, ICLR 2022,
        https://arxiv.org/abs/2106.02654

    .. math:: -\frac{1}{B} \sum_b \sum_c \big( \lambda p_{bc} + (1 - \lambda) y_{bc} \big) \log q_{bc}

    with the probabilities p of the base model, which is the teacher here and usually of the same architecture, q of the
    new one and the label y. Up to a constant this is :math:`(1 - \lambda)` times cross entropy plus :math:`\lambda`
    times :math:`\mathrm{KL}(p \,\|\, q)`: what a bound on the divergence from the base model asks for, whose multiplier
    sets :math:`\lambda`. The paper trains with each :math:`\lambda` of a grid and chooses afterwards; ``ChurnReport``
    logs good and bad churn to choose by. The term holds the cross entropy with the labels: add none.

    Args:
        mixing: Share :math:`\lambda` of the base model's answer in the target, in [0, 1]: 0 is cross entropy with the
            labels, 1 copies the base model.

    Shape:
        Logits ``(B, C)`` of both; target ``(B,)`` or ``(B, C)``; output a scalar.

    Raises:
        InputError: If ``mixing`` lies outside [0, 1], the shapes of the logits differ or the target does not fit them.

    Traps:
        - There is no temperature: the bound on churn is one on the probabilities that both models really predict.
        - A cross entropy, not a divergence: the value is not 0 for a student that equals its teacher.
        - A base model that was trained on the same samples is nearly certain of their labels and adds little to them;
          on samples that it never saw its mistakes are taught too.
        - With one and the same seed, data and settings the new model is the base model: compare other seeds, or data.

    Code: ``brauden/prediction-churn:src/churn/transform.py`` (Distillation), a reimplementation; the authors released
        none, and this is from the paper.

    Example:
        >>> student, teacher = Outputs(torch.zeros(2, 4)), Outputs(torch.zeros(2, 4))
        >>> ChurnReduction(mixing=0.3)(student, teacher, torch.tensor([0, 3]))
        tensor(1.3863)
    """

    def __init__(self, mixing: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require(0 <= mixing <= 1, "mixing", mixing, "in [0, 1]")
        self.mixing = mixing

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Cross entropy with the mixed target, mean over the batch."""
        return churn_reduction(student.logits, teacher.logits, target, self.mixing)


class AnchorRCP(LogitLoss):
    r"""The model in use anchors its successor only where it is right ("regress to corrected prediction").

    Paper: Milani Fard, Cormier, Canini, Gupta, Launch and Iterate: Reducing Prediction Churn, NIPS 2016,
        https://papers.nips.cc/paper_files/paper/2016/hash/dc5c768b5dc76a084531934b34601977-Abstract.html

    .. math:: -\frac{1}{B} \sum_b \sum_c \tilde y_{bc} \log q_{bc}, \quad \tilde y_b = \begin{cases}
        \alpha p_b + (1 - \alpha) y_b & \arg\max_c p_{bc} = \arg\max_c y_{bc} \\
        \epsilon y_b & \text{otherwise} \end{cases}

    with the probabilities p of the base model, which is the teacher here, q of the new one and the label y. The paper
    has two classes and regresses to :math:`\tilde y`; with cross entropy and more classes :math:`\epsilon` is what a
    sample counts for that the base model gets wrong; with 0 these are left out. It is a baseline of
    :class:`ChurnReduction`. The term holds the cross entropy with the labels: add none.

    Args:
        alpha: Share of the base model's answer in the target where it is right, in [0, 1].
        epsilon: What a sample counts for where the base model is wrong, in [0, 1].

    Shape:
        Logits ``(B, C)`` of both; target ``(B,)``, or ``(B, C)`` of which the likeliest class tells whether the base
        model is right; output a scalar.

    Raises:
        InputError: If ``alpha`` or ``epsilon`` lies outside [0, 1], the shapes of the logits differ or the target does
            not fit them.

    Traps:
        - Where the base model is right this is ``ChurnReduction`` with ``mixing`` = ``alpha``; what it says about its
          mistakes is never taught.
        - A base model that knows its training set by heart is right on all of it: ``epsilon`` then does nothing.

    Code: ``brauden/prediction-churn:src/churn/transform.py`` (AnchorRCP, where its ``smoothing`` is off), a
        reimplementation; the authors released none, and this is from the paper.

    Example:
        >>> student, teacher = Outputs(torch.zeros(1, 4)), Outputs(torch.tensor([[0.0, 9.0, 0.0, 0.0]]))
        >>> AnchorRCP(epsilon=0.0)(student, teacher, torch.tensor([3]))
        tensor(0.)
    """

    def __init__(self, alpha: float = 0.5, epsilon: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require(0 <= alpha <= 1, "alpha", alpha, "in [0, 1]")
        require(0 <= epsilon <= 1, "epsilon", epsilon, "in [0, 1]")
        self.alpha = alpha
        self.epsilon = epsilon

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Cross entropy with the corrected target, mean over the batch."""
        return anchor_rcp(student.logits, teacher.logits, target, self.alpha, self.epsilon)
