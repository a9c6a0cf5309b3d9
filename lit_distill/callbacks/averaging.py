"""Moving averages of a network's weights, whole or sharded."""

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


def tensors(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of a network by name; they share memory with it.

    Through ``state_dict`` and not ``parameters()``: it reshards what FSDP2 has left gathered after a forward pass, and
    leaves out frozen networks.

    Args:
        network: The network.
    """
    return {name: value for name, value in network.state_dict().items() if isinstance(value, Tensor)}


def averaged(value: Tensor) -> bool:
    """Whether a tensor is averaged; integers are copied instead.

    Args:
        value: A parameter or buffer.
    """
    return value.is_floating_point() or value.is_complex()


def is_half(value: Tensor) -> bool:
    """Whether a tensor is of half precision, in which a thousandth of a change would be lost.

    Args:
        value: A parameter or buffer.
    """
    return value.dtype in (torch.float16, torch.bfloat16)


@torch.no_grad()
def follow(average: dict[str, Tensor], live: dict[str, Tensor], decay: float) -> None:
    """Move an average in place: ``decay`` times itself plus ``1 - decay`` times the live tensors.

    Args:
        average: The average by name; its precision is the one that is computed in.
        live: The tensors that it follows, by the same names.
        decay: How much of the average is kept, in [0, 1].
    """
    mean = get_ema_multi_avg_fn(decay)
    names = [name for name, value in live.items() if averaged(value)]
    for sharded in (True, False):  # one fused operation does not take both kinds
        some = [name for name in names if isinstance(live[name], DTensor) == sharded]
        if some:
            targets = [average[name] for name in some]
            mean(targets, [live[name].to(average[name].dtype) for name in some], None)
    for name in live.keys() - set(names):
        average[name].copy_(live[name])


def whole(value: Tensor) -> Tensor:
    """A tensor of all ranks, gathered if it is sharded; all ranks must ask together.

    Args:
        value: A parameter or buffer.
    """
    return value.full_tensor() if isinstance(value, DTensor) else value


def like(value: Tensor, model: Tensor) -> Tensor:
    """A whole tensor where another one lies: on its device, and sharded as it is.

    Args:
        value: A whole tensor, or one that is sharded already.
        model: The tensor that shows where.
    """
    if isinstance(model, DTensor) and not isinstance(value, DTensor):
        return distribute_tensor(value, model.device_mesh, model.placements)
    return value.to(model.device)


def rank() -> int:
    """Number of this process; 0 where there is only one."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
