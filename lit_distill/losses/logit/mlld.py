"""Multi-level logit distillation: samples, batches and classes, at several temperatures, of two views."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

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
    check_same_shape(*weak, "logits")
    check_same_shape(*strong, "logits")
    factors, unsure, rare = _factors(teacher_weak, len(temperatures), mode)
    found = [_levels(*view, temperatures)[0] for view in (weak, strong)]
    samples = sum(((f * view.samples).sum() for f, view in zip(factors, found, strict=True)), factors.new_zeros(()))
    counted = found if mode == "paper" else found[:1]
    of_batch, of_classes = (torch.stack([level[i].sum() for level in counted]).sum() for i in (1, 2))
    return samples, unsure * of_batch, rare * of_classes


def _factors(teacher_weak: Tensor, temperatures: int, mode: str) -> tuple[Tensor, Tensor, Tensor]:
    """Of the divergences of both views by temperature ``(2, T)``, and of the batch's and the classes' matrices."""
    ones = teacher_weak.new_ones(2, temperatures)
    if mode == "paper":
        return ones, ones[0, 0], ones[0, 0]
    p = teacher_weak.softmax(-1)
    unsure, rare = _lower_half(p.amax(-1)), _lower_half(p.sum(0))
    first = (torch.arange(temperatures, device=p.device) < STRONG).to(p.dtype)
    return torch.stack([unsure + 1 - first, first]), unsure, rare


class _Levels(NamedTuple):
    """Numbers of one view at each temperature, ``(T,)``."""

    samples: Tensor
    of_batch: Tensor
    of_classes: Tensor


def _levels(
    student: Tensor, teacher: Tensor, temperatures: Sequence[float]
) -> tuple[_Levels, tuple[Tensor, Tensor, Tensor]]:
    r"""The three levels of one view, and the products that their gradient needs.

    Both Gram matrices are compared in products of the shorter sides, each ``(T, B, B)`` where there are more classes
    than samples: with :math:`H = Q Q^\top`, :math:`M = Q D^\top` and :math:`N = D D^\top` of :math:`D = Q - P`,

    .. math:: \| Q Q^\top - P P^\top \|^2 = \| M + M^\top - N \|^2, \quad
        \| Q^\top Q - P^\top P \|^2 = \sum_{ij} 2 M_{ij} M_{ji} + N_{ij} (2 H_{ij} + N_{ij} - 4 M_{ij}),

    in which nothing large cancels where P and Q are close.
    """
    batch, classes = student.shape
    samples, products = [], []
    for temperature in temperatures:
        log_q, log_p = softened(student, temperature), softened(teacher, temperature)
        q, p = log_q.exp(), log_p.exp()
        samples.append(temperature**2 / batch * (p * (log_p - log_q)).sum())
        del log_q, log_p
        q, d = _short(q), _short(q - p)
        products.append(torch.stack([q @ q.T, q @ d.T, d @ d.T]))
    h, m, n = torch.stack(products, 1)
    gap = m + m.mT - n
    squares = [gap.square().sum((1, 2)), (2 * m * m.mT + n * (2 * h + n - 4 * m)).sum((1, 2))]
    of_batch, of_classes = squares if batch <= classes else squares[::-1]
    return _Levels(torch.stack(samples), of_batch / batch, of_classes / classes), (h, m, gap)


def _short(x: Tensor) -> Tensor:
    """The matrix, or its transpose if that is the one with fewer rows."""
    return x if len(x) <= x.shape[1] else x.T


def _view(
    student: Tensor,
    teacher: Tensor,
    temperatures: Sequence[float],
    factors: Tensor,
    of_batch: Tensor,
    of_classes: Tensor,
) -> tuple[Tensor, Gradient]:
    """The three levels of one view with their factors, in one number."""
    batch, classes = student.shape
    levels, (h, m, gap) = _levels(student, teacher, temperatures)
    value = torch.stack([factors * levels.samples, of_batch * levels.of_batch, of_classes * levels.of_classes]).sum()

    def gradient() -> Tensor:
        # for Q of the first matrices' difference 4 (M + M' - N) Q, of the others' 4 Q (Q'Q - P'P) = 4 (M Q + (H - M) D)
        own, other = 4 * of_batch / batch, 4 * of_classes / classes
        if batch > classes:
            own, other = other, own
        of_q, of_d = own * gap + other * m, other * (h - m)
        total = torch.zeros_like(student)
        for i, temperature in enumerate(temperatures):
            q, p = divided(student, temperature).softmax(-1), divided(teacher, temperature).softmax(-1)
            d = q - p
            del p
            of_grams = (of_q[i] @ _short(q)).addmm_(of_d[i], _short(d))
            of_grams = (of_grams if batch <= classes else of_grams.T).mul(q)
            total.add_(through_softmax(of_grams, q), alpha=1 / temperature)
            total.add_(d.mul_(factors[i] * (temperature / batch)))
        return total

    return value, gradient


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
    (of_weak, of_strong), unsure, rare = _factors(teacher_weak, len(temperatures), mode)
    term = partial(_view, temperatures=temperatures, factors=of_weak, of_batch=unsure, of_classes=rare)
    weak = with_gradient(term, student_weak, teacher_weak)
    if mode == "paper":
        return weak + with_gradient(term, student_strong, teacher_strong)
    strong = [f * kd(student_strong, teacher_strong, t) for f, t in zip(of_strong[:STRONG], temperatures, strict=False)]
    return weak + torch.stack(strong).sum()


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
