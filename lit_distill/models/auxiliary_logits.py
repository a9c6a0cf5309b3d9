"""A network that says more than its answer."""

from typing import cast

from torch import Tensor, nn

from lit_distill.errors import InputError


class AuxiliaryLogits(nn.Module):
    """A network of whose logits the first are its answer, and the rest are there to be tapped at ``auxiliary``.

    No label reaches the auxiliary logits, which only mirror what the layers before them have become. Cloud et al.,
    Subliminal Learning, arXiv 2025, https://arxiv.org/abs/2507.14805, distil them alone: a student that began with the
    teacher's own initial weights (:func:`~lit_distill.models.seeded`) learns to answer from them.

    Args:
        model: The network, with more outputs than ``classes``.
        classes: How many of its logits are the answer.

    Raises:
        InputError: At the first batch, when the network gives no logits beyond ``classes``.

    Example:
        >>> import torch
        >>> AuxiliaryLogits(nn.Linear(4, 13), classes=10)(torch.zeros(2, 4)).shape
        torch.Size([2, 10])
    """

    def __init__(self, model: nn.Module, classes: int = 10) -> None:
        super().__init__()
        if classes < 1:
            raise InputError(f"classes: {classes} given to AuxiliaryLogits; accepted is a number of at least 1")
        self.model = model
        self.classes = classes
        self.auxiliary = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Inputs ``(B, ...)`` to the logits of the answer, ``(B, classes)``."""
        logits = cast(Tensor, self.model(x))
        if logits.shape[-1] <= self.classes:
            raise InputError(
                f"AuxiliaryLogits: {type(self.model).__name__} gives {logits.shape[-1]} logits; accepted are more than "
                f"the {self.classes} of the answer"
            )
        self.auxiliary(logits[..., self.classes :])
        return logits[..., : self.classes]
