"""A linear classifier in closed form, which measures features."""

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_distill.errors import InputError


class RidgeProbe:
    r"""Ridge regression of one-hot labels on features, fitted in one pass over batches.

    With standardised features :math:`\hat\phi` of N samples and the share :math:`\bar y` of each class,

    .. math:: W = \arg\min_W \sum_i \| W^\top \hat\phi_i - (y_i - \bar y) \|^2 + N \, \text{penalty} \, \| W \|^2

    It sees every training sample once, in any order, and holds no more than a matrix of the features' width. All is
    computed in float64.

    Args:
        classes: Number of classes.
        penalty: Weight of the regularisation, relative to the variance of a feature; positive.

    Raises:
        InputError: If an argument is out of range, features are not ``(B, D)``, or there are none.

    Example:
        >>> probe = RidgeProbe(classes=2)
        >>> probe.update(torch.tensor([[0.0], [1.0], [5.0], [6.0]]), torch.tensor([0, 0, 1, 1]))
        >>> probe.fit()
        >>> probe(torch.tensor([[2.0], [4.0]])).argmax(1)
        tensor([0, 1])
    """

    def __init__(self, classes: int, penalty: float = 1e-3) -> None:
        if classes < 1:
            raise InputError(f"classes: {classes} given to RidgeProbe; accepted is a number of at least 1")
        if not penalty > 0:
            raise InputError(f"penalty: {penalty} given to RidgeProbe; accepted is a positive number")
        self.classes = classes
        self.penalty = penalty
        self.moments: Tensor | None = None

    def update(self, features: Tensor, target: Tensor) -> None:
        """Take a batch of the training set into account.

        Args:
            features: ``(B, D)``.
            target: Class indices ``(B,)``.
        """
        one_hot = F.one_hot(target, self.classes).to(features.device)
        # the sums of products of all three: 1, the features, and the one-hot labels
        rows = torch.cat([_double(torch.ones_like(features[:, :1])), _double(features), _double(one_hot)], dim=1)
        products = rows.mT @ rows
        self.moments = products if self.moments is None else self.moments + products

    def fit(self) -> None:
        """Solve for the classifier; under a distributed run, of the samples of all ranks together."""
        if self.moments is None:
            raise InputError("features: none given to RidgeProbe; call update with the training set first")
        moments = self.moments
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(moments := moments.clone())
        mean = moments[0, 1:] / moments[0, 0]
        covariance = moments[1:, 1:] / moments[0, 0] - mean[:, None] * mean
        of_features, with_labels = covariance[: -self.classes].split([len(mean) - self.classes, self.classes], dim=1)
        # A feature that never changes tells nothing: its rounding errors must not be blown up to a variance of 1.
        square = moments.diagonal()[1 : -self.classes] / moments[0, 0]
        variance = of_features.diagonal()
        changes = variance > 100 * torch.finfo(mean.dtype).eps * square
        self.scale = torch.where(changes, variance, torch.inf).rsqrt()
        self.mean, self.share = mean[: -self.classes], mean[-self.classes :]
        standardised = self.scale[:, None] * of_features * self.scale
        standardised.diagonal().add_(self.penalty)
        self.weight = torch.linalg.solve(standardised, self.scale[:, None] * with_labels)

    def __call__(self, features: Tensor) -> Tensor:
        """Scores of the classes, ``(B, C)``, for features ``(B, D)``."""
        return (_double(features) - self.mean) * self.scale @ self.weight + self.share


def _double(x: Tensor) -> Tensor:
    return (x.cpu() if x.device.type == "mps" else x).double()  # which has no float64
