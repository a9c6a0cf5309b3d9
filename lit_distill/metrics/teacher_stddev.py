"""How good an augmentation is for distillation, asked of the teacher alone."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_distill.errors import InputError


def stddev_of_means(means: Tensor) -> Tensor:
    """Standard deviation of each class's mean probability, averaged over the classes: a scalar.

    Args:
        means: Mean probabilities of at least two groups of samples, ``(M, C)``.

    Example:
        >>> stddev_of_means(torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]))
        tensor(0.)
    """
    return means.std(0).mean()


class TeacherStddev(Metric):
    r"""Standard deviation of the teacher's mean probability ("T. stddev") over groups of samples of all ranks.

    .. math:: \frac{1}{C} \sum_c \mathrm{std}_{g} \Big( \frac{1}{n} \sum_{i \in g} p_c(x_i) \Big)

    where :math:`p` are the teacher's probabilities at temperature 1, each group :math:`g` holds :math:`n` augmented
    samples and the standard deviation is that of a sample of groups (divided by their number less one). The lower it
    is, the better students do that learn from samples of this kind (Wang et al., "What Makes a 'Good' Data Augmentation
    in Knowledge Distillation: A Statistical Perspective", NeurIPS 2022, https://arxiv.org/abs/2012.02909; the code,
    ``MingSun-Tse/Good-DA-in-KD:helper/loops.py`` (check_ce_var), equals this).

    Samples must come as training draws them: of data in the order of the classes every group would have other ones.
    Where a student learns from images and from their mixtures the authors count both, in groups of 5 batches of 64
    images and their 64 mixtures.

    Groups follow one another in the order of the samples of a rank, whatever the sizes of the batches; one that is
    not full does not count. With fewer than two groups the value is nan. Of the probabilities only the moments over
    groups are kept, so any number of groups takes the same memory.

    Args:
        num_classes: The number of classes.
        group: Samples of a group. Values of other sizes do not compare: they go with the root of its inverse.

    Raises:
        InputError: If ``group`` or ``num_classes`` is below 1.

    Example:
        >>> metric = TeacherStddev(num_classes=2, group=1)
        >>> metric.update(torch.tensor([[0.0, 99.0], [99.0, 0.0]]))  # means 0 and 1
        >>> metric.compute()
        tensor(0.7071)
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = True

    moments: Tensor
    pending: Tensor
    waiting: Tensor

    def __init__(self, num_classes: int, group: int = 640, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name, value in (("num_classes", num_classes), ("group", group)):
            if value < 1:
                raise InputError(f"{name}: {value} given to TeacherStddev; accepted is a number of at least 1")
        self.num_classes = num_classes
        self.group = group
        self.add_state("moments", torch.zeros(3, num_classes), dist_reduce_fx=_merged)
        # the group that is not full yet stays on its rank
        self.add_state("pending", torch.zeros(num_classes), dist_reduce_fx=None)
        self.add_state("waiting", torch.tensor(0), dist_reduce_fx=None)

    def update(self, teacher: Tensor) -> None:
        """Add one batch.

        Args:
            teacher: Logits of the teacher ``(..., C)``.

        Raises:
            InputError: When there are other than ``num_classes`` classes.
        """
        if teacher.ndim < 2 or teacher.shape[-1] != self.num_classes:
            raise InputError(
                f"teacher: logits of shape {tuple(teacher.shape)} given to TeacherStddev; accepted are "
                f"(..., {self.num_classes})"
            )
        rest = teacher.detach().flatten(0, -2).float().softmax(-1)
        waiting = int(self.waiting)
        while len(rest) > 0:
            own, rest = rest[: self.group - waiting], rest[self.group - waiting :]
            self.pending = self.pending + own.sum(0)
            waiting += len(own)
            if waiting == self.group:
                mean = self.pending / self.group
                group = torch.stack([torch.ones_like(mean), mean, torch.zeros_like(mean)])
                self.moments = _merged(torch.stack([self.moments, group]))
                self.pending, waiting = torch.zeros_like(self.pending), 0
        self.waiting = torch.full_like(self.waiting, waiting)

    def compute(self) -> Tensor:
        """The standard deviation so far, a scalar of at least 0."""
        count, _, squares = self.moments
        return (squares / (count - 1).clamp(min=0)).sqrt().mean()  # 0 / 0 below two groups


def _merged(moments: Tensor) -> Tensor:
    """Number, mean and sum of squared distances from the mean of several samples together: ``(R, 3, C) -> (3, C)``.

    Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979: squares
    of distances and not of values are added, whose differences would be lost.
    """
    counts, means, squares = moments.unbind(1)
    total = counts.sum(0)
    mean = (counts * means).sum(0) / total.clamp(min=1)
    return torch.stack([total, mean, (squares + counts * (means - mean) ** 2).sum(0)])
