"""What a new model changes in the predictions of the one that it replaces."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_distill.losses.labels import hard_labels
from lit_distill.metrics.rows import rows


def changed_predictions(student: Tensor, teacher: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Which samples the new model predicts otherwise than the base model, and for better or worse.

    Args:
        student: Logits of the new model ``(..., C)``.
        teacher: Logits of the base model ``(..., C)``.
        target: Class indices ``(...)``, or class probabilities ``(..., C)`` of which the likeliest class counts.

    Returns:
        Booleans ``(N,)`` by name: ``churn`` where the two predict differently, of these ``good_churn`` where the
        new model alone is right and ``bad_churn`` where the base model alone is.

    Raises:
        InputError: When the shapes differ, there is no class axis or the target does not fit.

    Example:
        >>> changes = changed_predictions(torch.eye(3), torch.eye(3)[[0, 2, 0]], torch.tensor([0, 1, 1]))
        >>> {name: which.tolist() for name, which in changes.items()}
        {'churn': [False, True, True], 'good_churn': [False, True, False], 'bad_churn': [False, False, False]}
    """
    labels = hard_labels(target, student).flatten()
    new, old = (logits.argmax(-1) for logits in rows(student, teacher))
    right, was_right = new == labels, old == labels
    return {"churn": new != old, "good_churn": right & ~was_right, "bad_churn": was_right & ~right}


class Churn(Metric):
    r"""Share of samples on which a new model predicts otherwise than the base model, for better and for worse.

    .. math:: \frac{1}{N} \sum_n \big[\hat y_n \neq \hat y^0_n\big], \quad
        \text{good: } \frac{1}{N} \sum_n \big[\hat y^0_n \neq y_n = \hat y_n\big], \quad
        \text{bad: } \frac{1}{N} \sum_n \big[\hat y^0_n = y_n \neq \hat y_n\big]

    with the predictions :math:`\hat y` of the new model, :math:`\hat y^0` of the base model and the labels y. Churn
    alone is 1 less :class:`TeacherAgreement`. Good less bad churn is the gain in accuracy; what is left of churn beside
    both is one mistake in place of another. Good over bad churn is the win-loss ratio of Milani Fard et al., "Launch
    and Iterate: Reducing Prediction Churn", NIPS 2016; bad churn is the negative flip rate of Yan et al.,
    "Positive-Congruent Training: Towards Regression-Free Model Updates", CVPR 2021, https://arxiv.org/abs/2011.09161.
    The callback ``ChurnReport`` logs all three.

    Example:
        >>> metric = Churn()
        >>> metric.update(torch.eye(4), torch.eye(4)[[0, 2, 0, 3]], torch.tensor([0, 1, 0, 2]))
        >>> metric.compute()
        {'churn': tensor(0.5000), 'good_churn': tensor(0.2500), 'bad_churn': tensor(0.2500)}
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    churn: Tensor
    good_churn: Tensor
    bad_churn: Tensor
    total: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("churn", "good_churn", "bad_churn", "total"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")

    def update(self, student: Tensor, teacher: Tensor, target: Tensor) -> None:
        """Add one batch.

        Args:
            student: Logits of the new model ``(..., C)``.
            teacher: Logits of the base model ``(..., C)``.
            target: Class indices ``(...)``, or class probabilities ``(..., C)`` of which the likeliest class counts.

        Raises:
            InputError: When the shapes differ, there is no class axis or the target does not fit.
        """
        changes = changed_predictions(student, teacher, target)
        self.churn += changes["churn"].sum()
        self.good_churn += changes["good_churn"].sum()
        self.bad_churn += changes["bad_churn"].sum()
        self.total += changes["churn"].numel()

    def compute(self) -> dict[str, Tensor]:
        """The shares so far by name: ``churn``, ``good_churn`` and ``bad_churn``, scalars in [0, 1]."""
        counts = {"churn": self.churn, "good_churn": self.good_churn, "bad_churn": self.bad_churn}
        return {name: count / self.total for name, count in counts.items()}
