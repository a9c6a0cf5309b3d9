"""The samples of all ranks, with gradients."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def gathered(tensor: Tensor) -> Tensor:
    r"""The rows of this tensor on all ranks, one after the other in the order of the ranks.

    Every rank must call it, with the same shape but for the number of rows, and every rank must run the
    backward pass. Outside a distributed run it returns ``tensor`` itself.

    A row of rank r is used in the losses :math:`L_1 \dots L_W` of all W ranks, so its gradient is the sum
    :math:`\sum_w \partial L_w / \partial x_r`. Strategies that average the gradients of parameters over ranks
    (DDP, FSDP) thereby follow the gradient of the mean loss :math:`\frac{1}{W} \sum_w L_w`: when every rank
    computes the same loss of the whole batch, as a relation between samples is, the step equals that of one
    process. No factor of the number of ranks is needed.

    Args:
        tensor: Rows of this rank, ``(B, ...)``; B may differ between ranks.

    Returns:
        Rows of all ranks, ``(B_1 + ... + B_W, ...)``.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return tensor
    whole: Tensor = _Gathered.apply(tensor)
    return whole


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ranks = dist.get_world_size()
        size = torch.tensor([tensor.shape[0]], device=tensor.device)
        sizes = [torch.empty_like(size) for _ in range(ranks)]
        dist.all_gather(sizes, size)
        rows: list[int] = torch.cat(sizes).tolist()

        # collectives need one shape on all ranks: short batches are padded, and cut again
        padded = tensor.new_zeros(max(rows), *tensor.shape[1:])
        padded[: tensor.shape[0]] = tensor
        parts = [torch.empty_like(padded) for _ in range(ranks)]
        dist.all_gather(parts, padded)

        start = sum(rows[: dist.get_rank()])
        ctx.own = slice(start, start + tensor.shape[0])
        return torch.cat([part[:n] for part, n in zip(parts, rows, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[ctx.own]
