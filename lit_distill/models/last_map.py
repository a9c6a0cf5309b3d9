"""Where a network has the map that its classifier sees the mean of."""

from typing import Any

import torch
from torch import Tensor, nn

from lit_distill.errors import InputError


def last_map(network: nn.Module, classifier: nn.Linear, input_shape: tuple[int, ...]) -> tuple[str, torch.Size]:
    """Path of the module that gives the map whose mean over positions the classifier takes, and the map's shape.

    It is found by running the network once, so that what a network does after its last stage is not left out.

    Args:
        network: The network.
        classifier: Its last linear layer.
        input_shape: Shape of one input without the batch axis.

    Returns:
        The path, and the shape ``(2, D, H, W)`` of its output for two inputs.

    Raises:
        InputError: When the network takes no such input, or its classifier does not see the mean of a map.

    Example:
        >>> from lit_distill.models.wrn import wrn_16_1
        >>> network = wrn_16_1()
        >>> last_map(network, network.fc, (3, 16, 16))
        ('relu', torch.Size([2, 64, 4, 4]))
    """
    taken: list[Tensor] = []
    maps: list[tuple[str, torch.Size, Tensor]] = []

    def note(path: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            is_map = isinstance(output, Tensor) and output.dim() == 4 and output.shape[1] == classifier.in_features
            if is_map and "Pool" not in type(module).__name__:
                maps.append((path, output.shape, output.float().mean((2, 3))))

        return hook

    hooks = [module.register_forward_hook(note(name)) for name, module in network.named_modules()]
    hooks.append(classifier.register_forward_pre_hook(lambda module, args: taken.append(args[0].float())))
    parameter = classifier.weight
    # noise: of zeros a network without biases makes zeros, which are equal everywhere
    noise = torch.randn(2, *input_shape, generator=torch.Generator().manual_seed(0))
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            network(noise.to(parameter))
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"input_shape: {type(network).__name__} does not take {input_shape}: {reason}") from error
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes:
            module.training = mode
    # relative to the vector as a whole, in half precision too
    seen = [
        (path, shape)
        for path, shape, mean in maps
        if taken and taken[0].shape == mean.shape and (mean - taken[0]).norm() <= 1e-2 * taken[0].norm()
    ]
    if not seen:
        raise InputError(
            f"{type(network).__name__} must have a classifier that sees the mean of a map over its positions and "
            "nothing else, got another one"
        )
    # before any pooling; of those the last, for an untrained BatchNorm hardly changes what it takes
    largest = max(shape.numel() for _, shape in seen)
    return [(path, shape) for path, shape in seen if shape.numel() == largest][-1]
