"""Multi-level logit distillation: samples, batches and classes, at several temperatures, of two views."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from lit_distill.core.outputs import Outputs
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import check_same_shape, check_temperature, require
from lit_distill.losses.gather import gathered
from lit_distill.losses.logit.kd import kd
from lit_distill.losses.precision import fp32

# Of the pool, in the released code: the temperatures at which the strong views are compared.
STRONG = 3


@fp32
def mlld_levels(
    student_weak: Tensor,
    student_strong: Tensor,
    teacher_weak: Tensor,
    teacher_strong: Tensor,
    temperatures: Sequence[float] = (4.0, 3.0, 5.0, 2.0, 6.0),
    mode: Literal["paper", "code"] = "code",
) -> tuple[Tensor, Tensor, Tensor]:
    """The three levels of :func:`mlld`, each summed over the temperatures.

    Args:
        student_weak: Logits of the student for the weakly augmented views, ``(B, C)``.
        student_strong: Logits of the student for the strongly augmented views, ``(B, C)``.
        teacher_weak: Logits of the teacher for the weakly augmented views, ``(B, C)``.
        teacher_strong: Logits of the teacher for the strongly augmented views, ``(B, C)``.
        temperatures: Each divides all logits.
        mode: Formula of the paper or of the released code.

    Returns:
        Three scalars: divergences of samples, differences of the batch's and of the classes' Gram matrices.
    """
    weak, strong = (student_weak, teacher_weak), (student_strong, teacher_strong)
    check_same_shape(*weak, "logits")
    check_same_shape(*strong, "logits")
    if mode == "paper":
        samples = [kd(*view, temperature) for view in (weak, strong) for temperature in temperatures]
        grams = [_grams(*view, temperature) for view in (weak, strong) for temperature in temperatures]
        unsure = rare = student_weak.new_ones(())
    else:
        p = teacher_weak.softmax(-1)
        unsure, rare = _lower_half(p.amax(-1)), _lower_half(p.sum(0))
        samples = [unsure * kd(*weak, temperature) for temperature in temperatures]
        samples += [kd(*strong, temperature) for temperature in temperatures[:STRONG]]
        samples += [kd(*weak, temperature) for temperature in temperatures[STRONG:]]
        grams = [_grams(*weak, temperature) for temperature in temperatures]
    of_batch, of_classes = (torch.stack(parts).sum() for parts in zip(*grams, strict=True))
    return torch.stack(samples).sum(), unsure * of_batch, rare * of_classes


def _grams(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Squared differences of both networks' Gram matrices of samples and of classes, over B and C."""
    q, p = (student / temperature).softmax(-1), (teacher / temperature).softmax(-1)
    of_batch, of_classes = p @ p.T - q @ q.T, p.T @ p - q.T @ q
    return of_batch.square().sum() / len(q), of_classes.square().sum() / q.shape[1]


def _lower_half(confidence: Tensor) -> Tensor:
    """Share of the values that are not above their median."""
    return (confidence <= confidence.quantile(0.5)).to(confidence.dtype).mean()


def mlld(
    student_weak: Tensor,
    student_strong: Tensor,
    teacher_weak: Tensor,
    teacher_strong: Tensor,
    temperatures: Sequence[float] = (4.0, 3.0, 5.0, 2.0, 6.0),
    mode: Literal["paper", "code"] = "code",
) -> Tensor:
    """Sum of divergences of samples and of differences of Gram matrices, over several temperatures.

    The formula, and what the modes are, stands in :class:`MLLD`.

    Args:
        student_weak: Logits of the student for the weakly augmented views, ``(B, C)``.
        student_strong: Logits of the student for the strongly augmented views, ``(B, C)``.
        teacher_weak: Logits of the teacher for the weakly augmented views, ``(B, C)``.
        teacher_strong: Logits of the teacher for the strongly augmented views, ``(B, C)``.
        temperatures: Each divides all logits.
        mode: Formula of the paper or of the released code.

    Returns:
        A scalar.

    Example:
        >>> logits = torch.eye(4)
        >>> mlld(logits, logits, logits, logits).abs() < 1e-6
        tensor(True)
    """
    samples, of_batch, of_classes = mlld_levels(
        student_weak, student_strong, teacher_weak, teacher_strong, temperatures, mode
    )
    return samples + of_batch + of_classes


class MLLD(LogitLoss):
    r"""Each sample's probabilities, and the Gram matrices of samples and of classes, at several temperatures.

    Paper: Jin, Wang, Lin, Multi-Level Logit Distillation, CVPR 2023,
        https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html

    .. math:: \sum_{T} \frac{T^2}{B} \sum_b \mathrm{KL}(p_b \,\|\, q_b) + \frac{1}{B} \| P P^\top - Q Q^\top \|^2
        + \frac{1}{C} \| P^\top P - Q^\top Q \|^2

    with the probabilities P of the teacher and Q of the student for a batch, softened by T. In mode ``paper`` this is
    summed over two views of each image, one weakly and one strongly augmented (RandAugment).

    In mode ``code``, whose numbers are the published ones, the matrices are those of the weak views alone; the
    divergences of the strong views are taken at the first three temperatures only, at the others those of the weak
    views a second time; and what stands for the weak views is multiplied by the share of samples of which the teacher
    is not surer than the median (for classes, likewise by their summed probability), about one half, as the masks meant
    to select them meet sums already taken.

    A batch holds each image twice: all weak views first, then all strong ones in the same order, and the labels twice.
    Data modules with ``strong_view: true`` give such batches.
    The authors weigh this with 0.9 and the cross entropy of each view with 0.1; the mean over both, ``CrossEntropy``,
    gets 0.2.

    Args:
        temperatures: Each divides the logits of both networks.
        mode: Formula of the paper or of the released code, see above.
        gather: Compare the samples of all ranks instead of this rank's alone (with gradients); without it the
            value of the term depends on how many devices share the batch.

    Shape:
        Logits ``(2 B, C)`` of both, weak views first; output a scalar.

    Raises:
        InputError: If there is no temperature or one is not positive, ``mode`` is unknown, the number of samples is odd
            or the shapes of the logits differ.

    Traps:
        - The factor :math:`T^2` stands before the divergences alone.
        - A batch of 2 B samples that are no views is halved all the same, and nothing can notice.
        - LSKD, RLD and DeepKD carry copies of the released code with its masks.

    Code: ``Jin-Ying/Multi-Level-Logit-Distillation:mdistiller/distillers/KD_ours.py``, equal to mode ``code``.

    Example:
        >>> outputs = Outputs(torch.eye(4))
        >>> MLLD()(outputs, outputs, torch.tensor([0, 3, 0, 3])).abs() < 1e-6
        tensor(True)
    """

    def __init__(
        self,
        temperatures: tuple[float, ...] = (4.0, 3.0, 5.0, 2.0, 6.0),
        mode: Literal["paper", "code"] = "code",
        gather: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        require(len(temperatures) > 0, "temperatures", temperatures, "at least one number")
        for temperature in temperatures:
            check_temperature(temperature)
        require(mode in ("paper", "code"), "mode", repr(mode), "paper or code")
        self.temperatures = tuple(temperatures)
        self.mode: Literal["paper", "code"] = mode
        self.gather = gather

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """All levels at all temperatures, summed."""
        check_same_shape(student.logits, teacher.logits, "logits")
        size = len(student.logits)
        require(size % 2 == 0, "batch", f"{size} samples", "an even number: all weak views, then all strong ones")
        views = [*student.logits.chunk(2), *teacher.logits.chunk(2)]
        if self.gather:
            views = [gathered(view) for view in views]
        student_weak, student_strong, teacher_weak, teacher_strong = views
        return mlld(student_weak, student_strong, teacher_weak, teacher_strong, self.temperatures, self.mode)
