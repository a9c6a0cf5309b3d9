"""The last layer of a network, whose weights are one direction a class."""

from difflib import get_close_matches

from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lit_distill.errors import InputError


def classifier_of(network: nn.Module, path: str | None, argument: str, member: str | None = None) -> nn.Linear:
    """The linear layer that gives the logits.

    Args:
        network: The network, or an ensemble.
        path: Where the layer is. Default: where the network says itself (``classifier_path`` of this library's
            networks, ``get_classifier()`` of timm's), else the last linear layer.
        argument: What messages call ``path``.
        member: Name of the member of an ensemble that is meant; ``path`` is within it.

    Raises:
        InputError: If there is no such layer, or it is not linear.

    Example:
        >>> classifier_of(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), None, "classifier")
        Linear(in_features=8, out_features=3, bias=True)
    """
    if member is not None:
        network = network.get_submodule(f"members.{member}")
    linear = {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    if path is None:
        path = getattr(network, "classifier_path", None)
    if path is not None:
        layer = linear.get(path)
    else:
        ask = getattr(network, "get_classifier", None)
        own = ask() if callable(ask) else None
        layer = own if isinstance(own, nn.Linear) else next(reversed(linear.values()), None)
    if layer is None:
        near = get_close_matches(path or "", linear, n=3, cutoff=0.3) or list(linear)[-3:]
        raise InputError(
            f"{argument} must be the path of a linear layer of {type(network).__name__}, got {path!r}; "
            f"near are {', '.join(near) or 'none'}"
        )
    return layer


def whole(parameter: Tensor) -> Tensor:
    """The parameter where the strategy has sharded it, which it does again after a frozen network's forward pass.

    Args:
        parameter: A weight or bias of a classifier that a term uses by itself.

    Raises:
        InputError: If it is sharded and trained.
    """
    if not isinstance(parameter, DTensor):
        return parameter
    if parameter.requires_grad:
        raise InputError(
            "strategy must leave the student's classifier whole between its forward and backward pass, got one that is "
            "sharded by itself; use ddp"
        )
    return parameter.full_tensor()
