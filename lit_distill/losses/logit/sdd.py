"""Scale decoupled distillation: logits of regions of the image, on several scales."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import check_same_shape, require
from lit_distill.losses.classifier import classifier_of, whole
from lit_distill.losses.labels import hard_labels
from lit_distill.losses.modifiers.base import Modifier


def cell_logits(feature: Tensor, classifier: nn.Linear, grids: Sequence[int] = (1, 2, 4)) -> Tensor:
    """What a classifier says about the cells of a map, each the mean over its positions.

    Args:
        feature: The last map of a network, ``(B, D, H, W)``.
        classifier: The layer that stands behind its mean.
        grids: Cells along each side, scale by scale.

    Returns:
        Logits, ``(B, N, C)`` with the N cells of all grids one after the other, row by row.

    Example:
        >>> cell_logits(torch.zeros(2, 8, 4, 4), nn.Linear(8, 10)).shape
        torch.Size([2, 21, 10])
    """
    cells = [F.adaptive_avg_pool2d(feature, side).flatten(2) for side in grids]
    bias = None if classifier.bias is None else whole(classifier.bias)
    return F.linear(torch.cat(cells, 2).transpose(1, 2), whole(classifier.weight), bias)


def sdd(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    term: Callable[[Tensor, Tensor, Tensor], Tensor],
    factor: float = 2.0,
) -> Tensor:
    """Mean of a term over cells, where complementary cells count more.

    The formula is that of :class:`SDD`.

    Args:
        student: Logits of the student for each cell, that of the whole map first, ``(B, N, C)``.
        teacher: Logits of the teacher, likewise.
        target: Class indices ``(B,)``, or class probabilities ``(B, C)``.
        term: From logits of student and teacher ``(R, C)`` and the target of each row to the mean over the rows.
        factor: How often a complementary cell counts.

    Returns:
        A scalar.

    Example:
        >>> from lit_distill.losses.logit.kd import kd
        >>> cells = torch.randn(2, 5, 10)
        >>> sdd(cells, cells, torch.tensor([3, 7]), lambda s, t, y: kd(s, t, temperature=4.0)).abs() < 1e-6
        tensor(True)
    """
    check_same_shape(student, teacher, "cell logits")
    right = teacher.argmax(-1) == hard_labels(target, teacher[:, 0]).unsqueeze(1)
    complementary = (right != right[:, :1]).flatten()
    s, t, y = student.flatten(0, 1), teacher.flatten(0, 1), target.repeat_interleave(student.shape[1], 0)
    rows = complementary.nonzero().squeeze(1)  # the one place where an accelerator must be waited for
    share = len(rows) / len(s)
    if len(rows) == 0:  # a term that all ranks take part in must be called on all of them
        rows = torch.arange(len(s), device=s.device)
    return term(s, t, y) + (factor - 1) * share * term(s[rows], t[rows], y[rows])


class SDD(Modifier):
    r"""Any term on logits is applied to regions of the image too, of which each network says what it sees there.

    Paper: Wei, Luo, Luo, Scale Decoupled Distillation, CVPR 2024, https://arxiv.org/abs/2403.13512

    .. math:: \frac{1}{B N} \sum_{b, n} w_{bn} \, \ell(z^s_{bn}, z^t_{bn}), \qquad
        w_{bn} = \begin{cases} 2 & [\hat y^t_{bn} = y_b] \neq [\hat y^t_{b0} = y_b] \\ 1 & \text{else} \end{cases}

    with the term :math:`\ell` within, and the logits z of each of N cells: the network's own classifier, applied to
    the mean of its last map over the cell. Cells whose prediction by the teacher is right where that of the whole
    map (n = 0) is wrong, or wrong where it is right, are complementary and count twice. The authors take grids of 1,
    2 and 4 around ``KD``, ``DKD`` or ``NKD`` with their hyperparameters, the latter two warmed up over 20 of 240
    epochs (callback ``WarmUp``), beside cross entropy with weight 1.

    Args:
        loss: The term within: any on logits alone that is a mean over samples.
        layers: Path of the student's last map, and of the teacher's: what its classifier sees the mean of.
        grids: Cells along each side, scale by scale; the first is the whole map, 1.
        factor: How often a complementary cell counts.
        student_classifier: Path of the student's classifier. Default: found.
        teacher_classifier: Path of the teacher's classifier. Default: found.

    Shape:
        Maps ``(B, D, H, W)`` of any size in each network; logits ``(B, C)`` are not asked; target ``(B,)``, or
        ``(B, C)`` of which the likeliest class counts; output a scalar.

    Raises:
        InputError: If ``layers`` is not one pair of maps, the grids do not begin with 1, ``factor`` is negative, a
            network has no linear classifier or one that does not fit its map, the loss is called before
            :meth:`attach`, or the term within compares features; besides, as the term within.

    Traps:
        - The sum is divided by the number of cells, not by that of the weights: with many complementary cells the
          value is larger.
        - A grid finer than the map counts positions several times.
        - Between the last map and the classifier there may be nothing but a mean: a ReLU, a norm or a hidden layer
          there would be left out.
        - Terms that compare the samples of a batch would compare all cells with each other.

    Code: ``shicaiwei123/SDD-CVPR2024:mdistiller/distillers/KD.py`` and ``SDD_DKD.py``, equal to this. The NKD of
        ``SDD_nkd.py`` leaves the label among the other classes: its gradient is that of ``SDD`` around
        ``NKD(gamma=0)`` and, with weight gamma, around ``KD`` at its temperature.

    Example:
        >>> from lit_distill.losses import KD
        >>> outputs = Outputs(torch.zeros(2, 10), {"map": torch.randn(2, 8, 4, 4)})
        >>> loss, network = SDD(KD(temperature=4.0), layers={"map": "map"}), nn.Linear(8, 10)
        >>> loss.attach(network, network)
        >>> loss(outputs, outputs, torch.tensor([3, 7])).abs() < 1e-6
        tensor(True)
    """

    def __init__(
        self,
        loss: LogitLoss,
        layers: dict[str, str],
        grids: tuple[int, ...] = (1, 2, 4),
        factor: float = 2.0,
        student_classifier: str | None = None,
        teacher_classifier: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(loss, **kwargs)
        require(not loss.layers, "loss", type(loss).__name__, "a term on logits alone")
        require(len(layers) == 1, "layers", layers, "one pair {student path: teacher path}")
        require(len(grids) > 0 and grids[0] == 1 and min(grids) > 0, "grids", grids, "sizes that begin with 1")
        require(factor >= 0, "factor", factor, "0 or positive")
        self.layers = dict(layers)
        self.grids = tuple(grids)
        self.factor = factor
        self.student_classifier = student_classifier
        self.teacher_classifier = teacher_classifier
        self.classifiers: tuple[nn.Linear, nn.Linear] | None = None

    def attach(self, student: nn.Module, teacher: nn.Module) -> None:
        """Find both classifiers.

        Args:
            student: The student itself.
            teacher: The whole teacher.
        """
        super().attach(student, teacher)
        self.classifiers = (
            classifier_of(student, self.student_classifier, "student_classifier"),
            classifier_of(teacher, self.teacher_classifier, "teacher_classifier", member=self.teacher),
        )

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """The term within, over the cells of both networks' maps."""
        if self.classifiers is None:
            raise InputError("SDD must meet the two networks before it is called, got no attach()")
        ((student_path, teacher_path),) = self.layers.items()
        maps = (student.features[student_path], teacher.features[teacher_path])
        for path, feature, classifier in zip((student_path, teacher_path), maps, self.classifiers, strict=True):
            if feature.dim() != 4 or feature.shape[1] != classifier.in_features:
                raise InputError(
                    f"layers must name maps (B, {classifier.in_features}, H, W), as the classifier takes them, "
                    f"got {path} {tuple(feature.shape)}"
                )
        cells = [cell_logits(feature, head, self.grids) for feature, head in zip(maps, self.classifiers, strict=True)]
        within = super().forward
        return sdd(cells[0], cells[1], target, lambda s, t, y: within(Outputs(s), Outputs(t), y), self.factor)
