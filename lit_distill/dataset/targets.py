"""Labels, and how far a network is from them."""

from torch import Tensor
from torch.nn.functional import one_hot

from lit_distill.losses.divergences.kl import forward_kl
from lit_distill.losses.divergences.rows import reduce_rows


def centred(targets: Tensor, classes: int) -> Tensor:
    """Targets as a regression sees them: 1 for the class and 0 for others, less the mean over classes.

    Args:
        targets: Classes, int64 ``(...)``; or labels ``(..., C)``, which stay as they are.
        classes: How many there are.

    Example:
        >>> import torch
        >>> centred(torch.tensor([1]), 2)
        tensor([[-0.5000,  0.5000]])
    """
    return targets if targets.is_floating_point() else one_hot(targets, classes).float() - 1 / classes


def regression_error(predicted: Tensor, labels: Tensor) -> Tensor:
    """Half the squared distance of each row, ``(B,)``.

    Args:
        predicted: ``(B, C)``.
        labels: ``(B, C)``.
    """
    return (predicted - labels).square().sum(1) / 2


def soft_divergence(given: Tensor, wanted: Tensor, temperature: float = 1.0) -> Tensor:
    r"""How far a network is from what a teacher said, as those who relabel distilled sets measure it.

    .. math:: \frac{1}{B} \sum_b \mathrm{KL}\big( \mathrm{softmax}(z^t_b / T) \,\|\, \mathrm{softmax}(z_b / T) \big)

    Unlike :func:`~lit_distill.losses.logit.kd.kd` it is not multiplied by :math:`T^2`, as in
    ``VILA-Lab/SRe2L:SRe2L/validate/train_FKD.py`` (T = 20).

    Args:
        given: Logits of the network, ``(B, C)``.
        wanted: Logits or log-probabilities of the teacher, ``(B, C)``.
        temperature: Divides both.
    """
    return reduce_rows(forward_kl(given, wanted, temperature))
