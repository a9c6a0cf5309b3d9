"""Multi-level logit distillation: samples, batches and classes, at several temperatures, of two views."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from lit_distill.core.outputs import Outputs
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import check_same_shape, check_temperature, require
from lit_distill.losses.divergences.rows import divided, softened, through_softmax
from lit_distill.losses.gather import gathered
from lit_distill.losses.known_gradient import Gradient, with_gradient
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
    of_weak, of_strong, unsure, rare = _factors(teacher_weak, temperatures, mode)
    samples = [f * kd(*weak, temperature) for f, temperature in zip(of_weak, temperatures, strict=True)]
    samples += [f * kd(*strong, temperature) for f, temperature in zip(of_strong, temperatures, strict=False)]
    views = (weak, strong) if mode == "paper" else (weak,)
    grams = [
        _grams(*(softened(logits, temperature).exp() for logits in view))[:2]
        for view in views
        for temperature in temperatures
    ]
    of_batch, of_classes = (torch.stack(parts).sum() for parts in zip(*grams, strict=True))
    batch, classes = student_weak.shape
    return torch.stack(samples).sum(), unsure * of_batch / batch, rare * of_classes / classes


def _factors(
    teacher_weak: Tensor, temperatures: Sequence[float], mode: str
) -> tuple[list[Tensor | float], list[float], Tensor | float, Tensor | float]:
    """Of the divergences of the weak and of the strong views by temperature, of the batch's and the classes' matrices."""
    if mode == "paper":
        ones = [1.0] * len(temperatures)
        return [*ones], ones, 1.0, 1.0
    p = teacher_weak.softmax(-1)
    unsure, rare = _lower_half(p.amax(-1)), _lower_half(p.sum(0))
    again = [float(i >= STRONG) for i in range(len(temperatures))]
    return [unsure + more for more in again], [1.0] * len(temperatures[:STRONG]), unsure, rare


def _grams(q: Tensor, p: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
    r"""Squared differences of the Gram matrices of rows and of columns, and what their gradient needs.

    All of it is in products of the shorter sides: with :math:`H = Q Q^\top`, :math:`M = Q D^\top` and
    :math:`N = D D^\top` of :math:`D = Q - P`,

    .. math:: \| Q^\top Q - P^\top P \|^2 = \sum_{ij} 2 M_{ij} M_{ji} + N_{ij} (2 H_{ij} + N_{ij} - 4 M_{ij})

    in which nothing large cancels where P and Q are close.
    """
    if len(q) > q.shape[1]:
        of_rows, of_columns, parts = _grams(q.T, p.T)
        return of_columns, of_rows, parts
    d = q - p
    h, m, n = q @ q.T, q @ d.T, d @ d.T
    gap = m + m.T - n
    return gap.square().sum(), (2 * m * m.T + n * (2 * h + n - 4 * m)).sum(), (h, m, gap)


def _of_grams(
    q: Tensor, p: Tensor, parts: tuple[Tensor, Tensor, Tensor], rows: Tensor | float, columns: Tensor | float
) -> Tensor:
    """Gradient for q of the first two numbers of :func:`_grams`, with their factors."""
    if len(q) > q.shape[1]:
        return _of_grams(q.T, p.T, parts, columns, rows).T
    h, m, gap = parts
    return torch.addmm((4 * (rows * gap + columns * m)) @ q, 4 * columns * (h - m), q - p)


def _view(
    student: Tensor,
    teacher: Tensor,
    temperatures: Sequence[float],
    factors: Sequence[Tensor | float],
    of_batch: Tensor | float = 0.0,
    of_classes: Tensor | float = 0.0,
    grams: bool = True,
) -> Tensor:
    """The three levels of one view at all temperatures, with their factors."""
    batch, classes = student.shape
    rows, columns = of_batch / batch, of_classes / classes

    def term(student: Tensor, teacher: Tensor) -> tuple[Tensor, Gradient]:
        value, kept = student.new_zeros(()), []
        for temperature, factor in zip(temperatures, factors, strict=True):
            log_q, log_p = softened(student, temperature), softened(teacher, temperature)
            q, p = log_q.exp(), log_p.exp()
            value = value + factor * temperature**2 * (p * (log_p - log_q)).sum(-1).mean()
            if grams:
                of_rows, of_columns, parts = _grams(q, p)
                value = value + rows * of_rows + columns * of_columns
                kept.append(parts)

        def gradient() -> Tensor:
            total = torch.zeros_like(student)
            for i, (temperature, factor) in enumerate(zip(temperatures, factors, strict=True)):
                q, p = divided(student, temperature).softmax(-1), divided(teacher, temperature).softmax(-1)
                if grams:
                    g = _of_grams(q, p, kept[i], rows, columns)
                    total.add_(through_softmax(g.mul_(q), q), alpha=1 / temperature)
                total.add_(q.sub_(p).mul_(factor * temperature / batch))
            return total

        return value, gradient

    return with_gradient(term, student, teacher)


def _lower_half(confidence: Tensor) -> Tensor:
    """Share of the values that are not above their median."""
    return (confidence <= confidence.quantile(0.5)).to(confidence.dtype).mean()


@fp32
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
    check_same_shape(student_weak, teacher_weak, "logits")
    check_same_shape(student_strong, teacher_strong, "logits")
    of_weak, of_strong, unsure, rare = _factors(teacher_weak, temperatures, mode)
    both = mode == "paper"
    weak = _view(student_weak, teacher_weak, temperatures, of_weak, unsure, rare)
    return weak + _view(
        student_strong, teacher_strong, temperatures[: len(of_strong)], of_strong, unsure, rare, grams=both
    )


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
