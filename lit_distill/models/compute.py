"""How much a network computes."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def macs(model: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Multiply-accumulate operations of one forward pass on one sample.

    Counts convolutions and matrix products (linear layers, attention); normalisation, activations, pooling
    and biases are left out, as in most tables. The model runs in eval mode, without gradients, and is left as
    it was.

    >>> macs(nn.Linear(3, 5), (3,))
    15

    Args:
        model: Takes a batch as its one argument.
        input_shape: Shape of one sample, without the batch axis.
    """
    first = next(iter(model.parameters()), torch.empty(0))
    x = torch.zeros(1, *input_shape, device=first.device, dtype=first.dtype)
    training = [module for module in model.modules() if module.training]
    model.eval()
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), counter:
            model(x)
    finally:
        for module in training:
            module.training = True
    return int(counter.get_total_flops()) // 2
