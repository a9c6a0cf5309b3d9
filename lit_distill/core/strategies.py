"""Fully sharded training, and what it asks of a module."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from lit_distill.errors import InputError

# Modules of fewer parameters are not worth a collective of their own: they join their parent's.
UNIT = 1_000_000


class FSDP2Strategy(ModelParallelStrategy):
    """FSDP2 over all devices of all nodes: ``strategy: fsdp2``.

    Lightning's ``ModelParallelStrategy`` with its ``"auto"`` sizes would shard by tensor within a node; here
    the data-parallel size is the world size and nothing is split by tensor.

    Checkpoints are folders, each rank's shards in files of their own. They appear whole or not at all: a save
    that is killed leaves the checkpoint before it.

    Buffers (the statistics of BatchNorm) are not sharded. Those of rank 0 count, as in DDP: the other ranks take
    them over for evaluation and for checkpoints.

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

    def on_validation_start(self) -> None:
        """Validate the same network on every rank."""
        self._share_buffers()

    def on_test_start(self) -> None:
        """Test the same network on every rank."""
        self._share_buffers()

    def on_predict_start(self) -> None:
        """Predict with the same network on every rank."""
        self._share_buffers()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The module's state, its buffers those of rank 0."""
        self._share_buffers()
        return super().lightning_module_state_dict()

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: _PATH, storage_options: Any = None) -> None:
        """Write a checkpoint beside ``filepath``, and put it there once every rank has written its part."""
        if not self._save_distributed_checkpoint:
            return super().save_checkpoint(checkpoint, filepath, storage_options)
        path = Path(self.broadcast(filepath))
        partial = path.with_name(f".{path.name}.partial")
        if self.is_global_zero:
            shutil.rmtree(partial, ignore_errors=True)  # what a killed save left
        self.barrier()
        super().save_checkpoint(checkpoint, partial, storage_options)
        self.barrier()
        if self.is_global_zero:
            replace_folder(partial, path)
        self.barrier()

    def load_checkpoint(self, checkpoint_path: _PATH, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint, or the one before it should a save have been killed while it was put in place."""
        path = Path(self.broadcast(checkpoint_path))
        if not path.exists() and previous(path).exists():
            path = previous(path)
        return super().load_checkpoint(path, weights_only)

    def _share_buffers(self) -> None:
        assert self.lightning_module is not None
        for value in self.lightning_module.state_dict().values():
            if isinstance(value, Tensor) and not isinstance(value, DTensor):
                torch.distributed.broadcast(value, src=0)


def register() -> None:
    """Make ``strategy: fsdp2`` known to Lightning's Trainer; importing this file does it."""
    if "fsdp2" not in StrategyRegistry.available_strategies():
        StrategyRegistry.register("fsdp2", FSDP2Strategy, description="FSDP2 over all devices of all nodes")


def replace_folder(new: Path, path: Path) -> None:
    """Put the folder ``new`` in the place of ``path``; there is no moment at which neither's content is on disk.

    Args:
        new: A folder beside ``path``.
        path: A folder, a file, or nothing yet.
    """
    old = previous(path)
    if path.exists():
        _remove(old)  # what is left of it if its removal was killed
        path.rename(old)  # a folder cannot replace one that is not empty
    new.rename(path)
    _remove(old)


def previous(path: Path) -> Path:
    """Where a checkpoint folder lies while its successor takes its place."""
    return path.with_name(f".{path.name}.previous")


def shard(network: nn.Module, mesh: DeviceMesh) -> None:
    """Shard every parameter of ``network`` over ``mesh``: its large parts as units of their own, then the rest.

    Args:
        network: A network whose ``forward`` is called (the hooks that gather parameters sit there), or a list or
            dict of such.
        mesh: The one-dimensional data-parallel mesh.

    Raises:
        InputError: When a trainable parameter is a scalar, which cannot be sharded.
    """
    if not _callable(network):
        for child in network.children():
            shard(child, mesh)
        return
    scalars = {name: p for name, p in network.named_parameters() if p.ndim == 0}
    if trained := [name for name, p in scalars.items() if p.requires_grad]:
        raise InputError(
            f"model: {trained[0]} of {type(network).__name__} is a scalar, which FSDP2 cannot shard; give it shape (1,)"
        )
    options: dict[str, Any] = {"mesh": mesh, "ignored_params": set(scalars.values())}
    if not any(p.requires_grad for p in network.parameters()):
        # No backward pass ends the use of a frozen network, so that its outermost unit would stay gathered.
        options["reshard_after_forward"] = True
    for unit in [*units(network), network]:
        fully_shard(unit, **options)


def units(network: nn.Module) -> list[nn.Module]:
    """The parts of ``network`` that are gathered by themselves, inner ones before those around them.

    They are items of a ``Sequential``, ``ModuleList`` or ``ModuleDict`` (blocks whose ``forward`` is called) with at
    least ``UNIT`` parameters that no inner unit holds; not those that share a parameter with the rest of the
    network, which must be gathered with it.

    Args:
        network: Any network.
    """
    uses = Counter(id(p) for _, p in network.named_parameters(remove_duplicate=False))
    lists = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    items = [item for module in network.modules() if isinstance(module, lists) for item in module.children()]
    found: list[nn.Module] = []
    taken: set[int] = set()
    for item in reversed(dict.fromkeys(items)):
        own = Counter(id(p) for _, p in item.named_parameters(remove_duplicate=False))
        size = sum(p.numel() for p in item.parameters() if id(p) not in taken)
        if _callable(item) and size >= UNIT and all(uses[p] == n for p, n in own.items()):
            found.append(item)
            taken |= own.keys()
    return found


def unsharded(network: nn.Module) -> list[str]:
    """Names of the trainable parameters that are not sharded; they would drift apart between ranks in silence."""
    return [n for n, p in network.named_parameters() if p.requires_grad and not isinstance(p, DTensor)]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _callable(network: nn.Module) -> bool:
    return type(network).forward is not nn.Module.forward


register()
