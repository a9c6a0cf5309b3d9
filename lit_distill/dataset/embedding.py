"""What a network's classifier sees."""

from torch import Tensor, nn

from lit_distill.losses.classifier import classifier_of


def embed(network: nn.Module, x: Tensor) -> Tensor:
    """The input of the last linear layer, ``(B, D)``, differentiable.

    Args:
        network: The network; where it has ``features(x)`` these are it.
        x: Images ``(B, C, H, W)``.
    """
    features = getattr(network, "features", None)
    if callable(features) and not isinstance(features, nn.Module):
        return features(x)
    seen: list[Tensor] = []
    hook = classifier_of(network, None, "network").register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    try:
        network(x)
    finally:
        hook.remove()
    return seen[0].flatten(1)
