"""Total variation distance."""

from torch import Tensor

from lit_distill.losses.divergences.base import Divergence
from lit_distill.losses.divergences.rows import divided, rows_with_gradient, through_softmax
from lit_distill.losses.known_gradient import Gradient
from lit_distill.losses.precision import fp32


@fp32
def tvd(student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    r"""Total variation distance of teacher p and student q, row by row: between 0 and 1.

    .. math:: \frac{1}{2} \sum_c |p_c - q_c|

    Args:
        student_logits: Scores of the student, ``(..., C)``.
        teacher_logits: Scores of the teacher, ``(..., C)``.
        temperature: Divides both logits. The value is not multiplied by its square.

    Returns:
        One value a row, ``(...)``. Where p and q agree in a class, that class has no gradient.
    """
    return rows_with_gradient(_tvd, student_logits, teacher_logits, temperature)


def _tvd(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Gradient]:
    q = divided(student, temperature).softmax(-1)
    gap = q - divided(teacher, temperature).softmax(-1)
    return 0.5 * gap.abs().sum(-1), lambda: through_softmax(gap.sign_().mul_(q), q).mul_(0.5)


class TVD(Divergence):
    r"""Total variation distance: symmetric and never above 1.

    Paper: Wen et al., f-Divergence Minimization for Sequence-Level Knowledge Distillation, ACL 2023,
        https://arxiv.org/abs/2307.15190

    .. math:: \frac{1}{2} \sum_c |p_c - q_c|

    with teacher p and student q.

    Shape:
        Logits ``(..., C)`` of both; output ``(...)``.

    Raises:
        InputError: If the shapes of the logits differ or the temperature is not positive.

    Traps:
        - The gradient vanishes for a student that is certain, right or wrong: do not train from scratch with
          it.
        - ``WHU-ZQH/ATKD`` keeps the padded rows instead of the valid ones.

    Code: ``jongwooko/distillm:distillm/losses.py`` (tv_distance), equal to the formula.

    Example:
        >>> import torch
        >>> TVD()(torch.tensor([[9e3, 0.0]]), torch.tensor([[0.0, 9e3]]))
        tensor([1.])
    """

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
        """The distance of each row, ``(..., C) -> (...)``."""
        return tvd(student_logits, teacher_logits, temperature=temperature)
