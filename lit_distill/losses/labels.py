"""Labels, and the classes beside them."""

import torch
from torch import Tensor

from lit_distill.errors import InputError
from lit_distill.losses.divergences.rows import divided, softened


def hard_labels(target: Tensor, logits: Tensor) -> Tensor:
    """One class a sample: the label itself, or the likeliest class of a mixed or smoothed one.

    Args:
        target: Class indices ``(...)``, or class probabilities ``(..., C)``.
        logits: Scores that the target belongs to, ``(..., C)``.

    Returns:
        Class indices, int64 ``(...)``.

    Raises:
        InputError: If the target fits neither form.

    Example:
        >>> hard_labels(torch.tensor([[0.3, 0.7, 0.0]]), torch.zeros(1, 3))
        tensor([1])
    """
    if target.shape == logits.shape[:-1] and not target.is_floating_point():
        return target.long()
    if target.shape == logits.shape and target.is_floating_point():
        return target.argmax(-1)
    raise InputError(
        f"target must be class indices {tuple(logits.shape[:-1])} or class probabilities {tuple(logits.shape)}, "
        f"got {target.dtype} {tuple(target.shape)}"
    )


def ruled_out(logits: Tensor, labels: Tensor) -> Tensor:
    """The logits with the one of each row's label at -inf: a softmax over all the other classes.

    Args:
        logits: Scores ``(..., C)``.
        labels: Class indices ``(...)``.

    Example:
        >>> ruled_out(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([2]))
        tensor([[1., 2., -inf]])
    """
    return logits.scatter(-1, labels.unsqueeze(-1), -torch.inf)


def log_binary(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Logarithms of the probability of each row's label and of all other classes together.

    Taken of sums of exponentials: :math:`\log (1 - p)` itself is -inf for a network that is certain.

    Args:
        logits: Scores ``(..., C)`` of at least two classes.
        labels: Class indices ``(...)``.

    Returns:
        Log-probabilities ``(..., 2)``, the label's first.

    Example:
        >>> log_binary(torch.zeros(1, 4), torch.tensor([2])).exp()
        tensor([[0.2500, 0.7500]])
    """
    return _label_and(ruled_out(logits, labels).logsumexp(-1), logits, labels)


def _label_and(rest: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    # the rest together is a class whose logit is the logarithm of its sum
    return softened(torch.stack([logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1), rest], -1))


def apart(logits: Tensor, labels: Tensor, temperature: float | Tensor = 1.0) -> tuple[Tensor, Tensor]:
    r"""Log-probabilities of the label against all other classes together, and of the others among themselves.

    Args:
        logits: Scores ``(..., C)`` of at least two classes.
        labels: Class indices ``(...)``.
        temperature: Divides the scores.

    Returns:
        ``(..., 2)``, the label's first, and ``(..., C)``, in which the label has no probability.

    Example:
        >>> two, others = apart(torch.zeros(1, 4), torch.tensor([2]))
        >>> two.exp(), others.exp()
        (tensor([[0.2500, 0.7500]]), tensor([[0.3333, 0.3333, 0.0000, 0.3333]]))
    """
    logits = divided(logits, temperature)
    rest = ruled_out(logits, labels)
    log_rest = softened(rest)
    # the logarithm of the sum is by how much the logits exceed their log-probabilities, anywhere
    return _label_and(rest.amax(-1) - log_rest.amax(-1), logits, labels), log_rest
