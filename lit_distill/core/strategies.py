"""Fully sharded training, and what it asks of a module."""

from typing import Any

from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

# Modules of fewer parameters are not worth a collective of their own: they join their parent's.
UNIT = 1_000_000


class FSDP2Strategy(ModelParallelStrategy):
    """FSDP2 over all devices of all nodes: ``strategy: fsdp2``.

    Lightning's ``ModelParallelStrategy`` with its ``"auto"`` sizes would shard by tensor within a node; here
    the data-parallel size is the world size and nothing is split by tensor.

    Args:
        save_distributed_checkpoint: Write sharded checkpoints (a folder); ``lit-distill export`` consolidates.
    """

    def __init__(self, save_distributed_checkpoint: bool = True, **kwargs: Any) -> None:
        super().__init__(
            data_parallel_size=1,  # replaced in setup_environment, when the number of processes is known
            tensor_parallel_size=1,
            save_distributed_checkpoint=save_distributed_checkpoint,
            **kwargs,
        )

    def setup_environment(self) -> None:
        """Shard over every process there is."""
        self._data_parallel_size = self.num_processes * self.num_nodes
        super().setup_environment()


def register() -> None:
    """Make ``strategy: fsdp2`` known to Lightning's Trainer; importing this file does it."""
    if "fsdp2" not in StrategyRegistry.available_strategies():
        StrategyRegistry.register("fsdp2", FSDP2Strategy, description="FSDP2 over all devices of all nodes")


def shard(network: nn.Module, mesh: DeviceMesh) -> None:
    """Shard every parameter of ``network`` over ``mesh``: its large children as units of their own, then the rest.

    Args:
        network: A network whose ``forward`` is called (the hooks that gather parameters sit there).
        mesh: The one-dimensional data-parallel mesh.
    """
    for child in network.modules():
        if child is not network and isinstance(child, nn.Sequential) and _size(child) >= UNIT:
            fully_shard(child, mesh=mesh)
    if any(True for _ in network.parameters()):
        fully_shard(network, mesh=mesh)


def unsharded(network: nn.Module) -> list[str]:
    """Names of the trainable parameters that are not sharded; they would drift apart between ranks in silence."""
    return [n for n, p in network.named_parameters() if p.requires_grad and not isinstance(p, DTensor)]


def _size(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


register()
