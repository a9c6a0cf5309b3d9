"""Cross-view consistency: the teacher's answer about one view of an image holds for the other one."""

from typing import Any

import torch
from torch import Tensor

from lit_distill.core.outputs import Outputs
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import check_same_shape, check_temperature, require
from lit_distill.losses.divergences.rows import kl_rows, log_probs
from lit_distill.losses.precision import fp32


@fp32
def crld_parts(
    student_weak: Tensor,
    student_strong: Tensor,
    teacher_weak: Tensor,
    teacher_strong: Tensor,
    temperature: float = 4.0,
    weak_threshold: float = 0.9,
    strong_threshold: float = 0.2,
) -> tuple[Tensor, Tensor]:
    """The two parts of :func:`crld`, without their factors.

    Args:
        student_weak: Logits of the student for the weakly augmented views, ``(B, C)``.
        student_strong: Logits of the student for the strongly augmented views, ``(B, C)``.
        teacher_weak: Logits of the teacher for the weakly augmented views, ``(B, C)``.
        teacher_strong: Logits of the teacher for the strongly augmented views, ``(B, C)``.
        temperature: Divides all logits in the divergences.
        weak_threshold: The least confidence of the teacher in a weak view for its image to count within views.
        strong_threshold: The least confidence of the teacher in a strong view for its image to count across views.

    Returns:
        Divergences within views and across views, two scalars.
    """
    check_same_shape(student_weak, student_strong, "logits (here of both views)")
    weak_q, weak_p = log_probs(student_weak, teacher_weak, temperature)
    strong_q, strong_p = log_probs(student_strong, teacher_strong, temperature)
    parts = (
        (teacher_weak, weak_threshold, kl_rows(weak_p, weak_q) + kl_rows(strong_p, strong_q)),
        (teacher_strong, strong_threshold, kl_rows(weak_p, strong_q) + kl_rows(strong_p, weak_q)),
    )
    within, across = (
        temperature**2 * torch.where(teacher.softmax(-1).amax(-1) >= threshold, rows, 0).mean()
        for teacher, threshold, rows in parts
    )
    return within, across


def crld(
    student_weak: Tensor,
    student_strong: Tensor,
    teacher_weak: Tensor,
    teacher_strong: Tensor,
    within_weight: float = 2.0,
    cross_weight: float = 0.5,
    temperature: float = 4.0,
    weak_threshold: float = 0.9,
    strong_threshold: float = 0.2,
) -> Tensor:
    """Divergences of each view from the teacher's same view and from its other one, where the teacher is certain.

    The formula is that of :class:`CRLD`.

    Args:
        student_weak: Logits of the student for the weakly augmented views, ``(B, C)``.
        student_strong: Logits of the student for the strongly augmented views, ``(B, C)``.
        teacher_weak: Logits of the teacher for the weakly augmented views, ``(B, C)``.
        teacher_strong: Logits of the teacher for the strongly augmented views, ``(B, C)``.
        within_weight: Factor of the divergences within views.
        cross_weight: Factor of those across views.
        temperature: Divides all logits in the divergences.
        weak_threshold: The least confidence of the teacher in a weak view for its image to count within views.
        strong_threshold: The least confidence of the teacher in a strong view for its image to count across views.

    Returns:
        A scalar.

    Example:
        >>> logits = 9 * torch.eye(3)
        >>> crld(logits, logits, logits, logits)
        tensor(0.)
    """
    within, across = crld_parts(
        student_weak, student_strong, teacher_weak, teacher_strong, temperature, weak_threshold, strong_threshold
    )
    return within_weight * within + cross_weight * across


class CRLD(LogitLoss):
    r"""Two views of each image, each compared with what the teacher says of it and of the other one.

    Paper: Zhang et al., Cross-View Consistency Regularisation for Knowledge Distillation, ACM MM 2024,
        https://arxiv.org/abs/2412.16493

    .. math:: \frac{T^2}{B} \sum_b w_v m^w_b \Big( \mathrm{KL}(p^w_b \| q^w_b) + \mathrm{KL}(p^s_b \| q^s_b) \Big)
        + w_c m^s_b \Big( \mathrm{KL}(p^w_b \| q^s_b) + \mathrm{KL}(p^s_b \| q^w_b) \Big)

    with teacher p and student q of the weakly (w) and the strongly (s) augmented view, softened by T, and masks m that
    are 1 where the teacher's largest probability of that view, not softened, reaches the threshold.

    A batch holds each image twice: all weak views first, then all strong ones in the same order, and the labels twice.
    Data modules with ``strong_view: true`` give such batches.
    The authors add the cross entropies of both views with weight 1 each; the mean over both, ``CrossEntropy``, gets 2.

    Args:
        within_weight: Factor of the divergences within views.
        cross_weight: Factor of those across views.
        temperature: Divides the logits of both networks in the divergences.
        weak_threshold: The least confidence of the teacher in a weak view for its image to count within views, in
            [0, 1].
        strong_threshold: The least confidence of the teacher in a strong view for its image to count across views, in
            [0, 1].

    Shape:
        Logits ``(2 B, C)`` of both, weak views first; output a scalar.

    Raises:
        InputError: If a factor is negative, the temperature is not positive, a threshold lies outside [0, 1], the
            number of samples is odd or the shapes of the logits differ.

    Traps:
        - One mask decides about both divergences within views, and the other one about both across views.
        - The sum is divided by all images, not by those that count.
        - A batch of 2 B samples that are no views pairs strangers, and nothing can notice.
        - With few classes no probability is below 0.2: raise ``strong_threshold``.

    Code: ``scx-822/CRLD-main:mdistiller/distillers/CRLD.py``, a public copy of the authors' repository, equal to this.
        Modifiers make variants of it: ``PairedViews`` and ``ConfidenceMask`` around any term.

    Example:
        >>> outputs = Outputs(9 * torch.eye(4))
        >>> CRLD()(outputs, outputs, torch.tensor([0, 3, 0, 3])) > 1
        tensor(True)
    """

    def __init__(
        self,
        within_weight: float = 2.0,
        cross_weight: float = 0.5,
        temperature: float = 4.0,
        weak_threshold: float = 0.9,
        strong_threshold: float = 0.2,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_temperature(temperature)
        for name, weight in {"within_weight": within_weight, "cross_weight": cross_weight}.items():
            require(weight >= 0, name, weight, "0 or positive")
        for name, threshold in {"weak_threshold": weak_threshold, "strong_threshold": strong_threshold}.items():
            require(0 <= threshold <= 1, name, threshold, "in [0, 1]")
        self.within_weight = within_weight
        self.cross_weight = cross_weight
        self.temperature = temperature
        self.weak_threshold = weak_threshold
        self.strong_threshold = strong_threshold

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Divergences within and across views with their factors, mean over the images."""
        check_same_shape(student.logits, teacher.logits, "logits")
        size = len(student.logits)
        require(size % 2 == 0, "batch", f"{size} samples", "an even number: all weak views, then all strong ones")
        (student_weak, student_strong), (teacher_weak, teacher_strong) = (
            said.logits.chunk(2) for said in (student, teacher)
        )
        return crld(
            student_weak,
            student_strong,
            teacher_weak,
            teacher_strong,
            self.within_weight,
            self.cross_weight,
            self.temperature,
            self.weak_threshold,
            self.strong_threshold,
        )
