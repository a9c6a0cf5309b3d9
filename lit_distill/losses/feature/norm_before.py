"""Which BatchNorm an activation takes its input from."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lit_distill.core.taps import INPUT
from lit_distill.models.layer_views import ACTIVATIONS


def norm_before(network: nn.Module, layer: str) -> _BatchNorm | None:
    """The BatchNorm whose output a layer gives, or takes where its path ends in ``:input``.

    It is known from the order in which the modules were made: that of the last BatchNorm before the activation, or of
    the last one of a layer that ends in none. A sum with a shortcut may come between the two.

    Args:
        network: The network.
        layer: Path of the layer.

    Returns:
        The BatchNorm, ``None`` if there is none.

    Example:
        >>> from lit_distill.models import resnet8
        >>> network = resnet8()
        >>> norm_before(network, "layer3.0.relu2:input") is network.layer3[0].bn2
        True
    """
    path = layer.removesuffix(INPUT)
    if not layer.endswith(INPUT):
        return _last(list(network.get_submodule(path).modules()))
    block = network.get_submodule(path.rpartition(".")[0])
    own = list(block.children())
    norms = [module for module in own if isinstance(module, _BatchNorm)]
    shared = len([module for module in own if isinstance(module, ACTIVATIONS)]) == 1 < len(norms)
    if shared and not isinstance(block, nn.Sequential):
        return norms[-1]  # torchvision's blocks call one activation after each norm: the tap sees the last call
    names = [name for name, _ in network.named_modules()]
    return _last(list(network.modules())[: names.index(path)])


def _last(modules: list[nn.Module]) -> _BatchNorm | None:
    return next((module for module in reversed(modules) if isinstance(module, _BatchNorm)), None)
