"""A second classifier on a feature of the student, trained with it and dropped after."""

import torch
from torch import Tensor, nn

from lit_distill.errors import InputError


class AuxiliaryHead(nn.Module):
    """The mean of a feature over its positions or tokens, and a classifier.

    Args:
        feature: Example of the feature: a map ``(B, D, H, W)``, tokens ``(B, N, D)`` or a vector ``(B, D)``.
        classes: Number of classes.
        hidden: Width of a hidden layer with dropout, batch normalisation and ReLU; 0 is a linear classifier.
        path: What messages call the feature.

    Raises:
        InputError: If the feature has another shape.

    Example:
        >>> AuxiliaryHead(torch.zeros(2, 32, 4, 4), classes=10)(torch.zeros(2, 32, 4, 4)).shape
        torch.Size([2, 10])
    """

    def __init__(self, feature: Tensor, classes: int, hidden: int = 0, path: str = "feature") -> None:
        super().__init__()
        if feature.dim() not in (2, 3, 4):
            raise InputError(f"layer must give (B, D, H, W), (B, N, D) or (B, D), got {path} {tuple(feature.shape)}")
        wide = _mean(feature).shape[1]
        net: nn.Module = nn.Linear(wide, classes)
        if hidden:
            layers = [nn.Linear(wide, hidden), nn.Dropout(0.1), nn.BatchNorm1d(hidden), nn.ReLU()]
            net = nn.Sequential(*layers, nn.Linear(hidden, classes))
        # a dry run under autocast gives half-precision features: parameters stay in the default precision
        dtype = torch.promote_types(feature.dtype, torch.get_default_dtype())
        self.net = net.to(device=feature.device, dtype=dtype)

    def forward(self, feature: Tensor) -> Tensor:
        """``(B, D, H, W)``, ``(B, N, D)`` or ``(B, D)`` to logits ``(B, C)``."""
        return self.net(_mean(feature))


def _mean(feature: Tensor) -> Tensor:
    if feature.dim() == 4:
        return feature.mean((2, 3))
    return feature.mean(1) if feature.dim() == 3 else feature
