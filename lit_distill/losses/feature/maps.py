"""Maps of student and teacher as they can be compared."""

from torch import Tensor

from lit_distill.losses.checks import require
from lit_distill.losses.views import same_size


def aligned(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps in one height and width, the smaller of each: the larger map is averaged (adaptive pooling).

    Args:
        student: A map ``(B, C_s, H_s, W_s)``.
        teacher: A map ``(B, C_t, H_t, W_t)``.

    Raises:
        InputError: When they are not maps of the same samples.

    Example:
        >>> import torch
        >>> [x.shape[1:] for x in aligned(torch.zeros(2, 3, 8, 8), torch.zeros(2, 5, 4, 4))]
        [torch.Size([3, 4, 4]), torch.Size([5, 4, 4])]
    """
    require(
        student.dim() == teacher.dim() == 4 and len(student) == len(teacher),
        "student and teacher activations",
        f"{tuple(student.shape)} and {tuple(teacher.shape)}",
        "maps (B, C, H, W) of the same samples",
    )
    return same_size(student, teacher)
