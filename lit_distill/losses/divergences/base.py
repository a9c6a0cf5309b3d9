"""The face of a divergence that YAML can name."""

from torch import Tensor, nn


class Divergence(nn.Module):
    """How far the student's distribution is from the teacher's, row by row.

    A subclass implements :meth:`forward`. Its value is 0 where both distributions are equal and never
    multiplied by the square of the temperature: who mixes it with other terms does that (see
    :class:`~lit_distill.losses.DivergenceKD`).
    """

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
        """The divergence of each row.

        Args:
            student_logits: Scores of the student, ``(..., C)``.
            teacher_logits: Scores of the teacher, ``(..., C)``.
            temperature: Divides both logits; a tensor holds one temperature ``()`` or one per row ``(...)``.

        Returns:
            One value a row, ``(...)``, in float32 or better.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement forward(student_logits, teacher_logits, temperature)"
        )
