"""Neural feature regression (FRePo)."""

import torch
from torch import Tensor, nn

from lit_distill.dataset.embedding import embed
from lit_distill.dataset.objectives.base import Objective
from lit_distill.dataset.step import Purpose, Step
from lit_distill.dataset.targets import centred, regression_error
from lit_distill.errors import InputError
from lit_distill.losses.precision import fp32


@fp32
def kernel_ridge(real: Tensor, synthetic: Tensor, labels: Tensor, ridge: float = 1e-6) -> Tensor:
    r"""What kernel ridge regression, trained on synthetic features, predicts for real ones.

    .. math:: \hat y = X_r X_s^\top \Big( X_s X_s^\top + \lambda \, \frac{\operatorname{tr}(X_s X_s^\top)}{m} I
        \Big)^{-1} Y_s

    The system is solved in float64: with more images than features only :math:`\lambda` keeps it regular.

    Args:
        real: Features ``(n, D)``.
        synthetic: Features ``(m, D)``.
        labels: Of the synthetic images, ``(m, C)``.
        ridge: :math:`\lambda`, a share of the mean diagonal of the kernel.

    Returns:
        Predictions ``(n, C)``; not a number where the kernel is singular nevertheless.

    Example:
        >>> features = torch.eye(3)
        >>> kernel_ridge(features[:1], features, torch.tensor([[1.0], [2.0], [3.0]]))
        tensor([[1.0000]])
    """
    x = synthetic.double()
    kernel = x @ x.T
    regular = kernel + ridge * kernel.diagonal().mean() * torch.eye(len(x), dtype=x.dtype, device=x.device)
    factor, failed = torch.linalg.cholesky_ex(regular)  # which, unlike others, lets a GPU go on
    factor = factor.masked_fill(failed != 0, torch.nan)
    weights = x.T @ torch.cholesky_solve(labels.double(), factor)
    return real @ weights.to(real.dtype)


@fp32
def label_margin(labels: Tensor) -> Tensor:
    """How far the largest number of a label is above the second, at most 1 / C.

    Args:
        labels: ``(..., C)``.

    Returns:
        ``(...)``.
    """
    best = labels.topk(2).values
    return (best[..., 0] - best[..., 1]).clamp(max=1 / labels.shape[-1])


class FRePo(Objective):
    r"""Synthetic images on whose features a regression predicts the labels of real images.

    Paper: Zhou, Nezhadarya and Ba, Dataset Distillation using Neural Feature Regression, NeurIPS 2022,
    https://arxiv.org/abs/2206.00719

    .. math:: \frac{1}{n} \sum_i \tfrac12 \lVert \hat y_i - y_i \rVert^2
        - \frac{1}{m} \sum_j \min\Big( Y_{j(1)} - Y_{j(2)}, \frac{1}{C} \Big)

    with :math:`\hat y` of :func:`kernel_ridge` on the features of a network, labels less 1 / C, and the two largest
    numbers of each synthetic label: learned labels shall not lose their class. No gradient flows through the features
    of real images, nor through the training of the network: that is for :class:`Pool` to do, which trains it on the
    synthetic set as it is. The network answers in eval mode.

    The authors learn images and labels (:class:`LearnedLabels`) with LAMB: learning rate 3e-4 with a cosine down to a
    tenth of it, 500,000 steps of 1024 real images, ten networks.

    Args:
        ridge: Share of the kernel's mean diagonal that is added to it.
        flip: Whether mirror images join the synthetic set, as the authors do for natural images where there are few.

    Raises:
        InputError: When ``ridge`` is not positive.

    Code: ``yongchaoz/FRePo:lib/datadistillation/frepo.py``
    """

    def __init__(self, ridge: float = 1e-6, flip: bool = False) -> None:
        super().__init__()
        if not ridge > 0:
            raise InputError(f"ridge must be positive, not {ridge}")
        self.ridge = ridge
        self.flip = flip

    def forward(self, step: Step, network: nn.Module) -> Tensor:
        """This process's share of the mean over real images and of the mean over synthetic labels."""
        classes = step.synthetic.num_classes
        real, synthetic = step.real.images, step.synthetic.whole()
        images, labels = synthetic.images, centred(synthetic.targets, classes)
        margin = label_margin(labels)[step.classes.to(labels.device)].sum() / labels[..., 0].numel()
        if step.augment is not None:
            drawn = step.augment.draw([step.generator(Purpose.AUGMENT, c) for c in range(classes)])
            images = step.augment(images, drawn)
            own = step.augment.draw([step.generator(Purpose.AUGMENT, int(c)) for c in step.classes])
            real = step.augment(real, own)
        images, labels = images.flatten(0, 1), labels.flatten(0, 1)
        if self.flip:
            images, labels = torch.cat([images, images.flip(-1)]), labels.repeat(2, 1)
        network.eval()
        with torch.no_grad():
            of_real = embed(network, real.flatten(0, 1))
        predicted = kernel_ridge(of_real, embed(network, images), labels, self.ridge)
        error = regression_error(predicted, centred(step.real.targets.flatten(), classes))
        return error.sum() / (real.shape[1] * classes) - margin
