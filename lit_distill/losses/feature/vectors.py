"""One vector a sample."""

from torch import Tensor

from lit_distill.losses.precision import fp32
from lit_distill.losses.views import as_map, pooled


@fp32
def vectors(x: Tensor) -> Tensor:
    """The mean over positions in float32, ``(B, D)``: half precision would round it.

    Args:
        x: A map ``(B, D, H, W)``, tokens ``(B, N, D)``, of which those before a square map (class and distillation
            token, registers) are left out, or vectors ``(B, D)``.

    Raises:
        InputError: When it is none of these.

    Example:
        >>> import torch
        >>> tokens = torch.tensor([[[100.0], [1.0], [2.0], [3.0], [4.0]]])  # a class token and a map of 2 by 2
        >>> vectors(tokens)
        tensor([[2.5000]])
    """
    return pooled(as_map(x))
