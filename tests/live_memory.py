"""How much memory a computation holds at its peak."""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of all tensors that operations make within it, forwards and backwards, while they live.

    A storage is counted once, however many views there are of it, and until nothing refers to it any more: neither
    Python nor a graph that waits for its backward pass. What an operator allocates for itself and gives back before it
    returns is not seen.

    Args:
        given: Tensors that are there already; what they and views of them hold is not counted.
    """

    def __init__(self, given: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.seen = {tensor.untyped_storage()._cdata for tensor in given}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self.count(tensor)
        return made

    def count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self.seen:
            self.seen.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.forget, key, size)

    def forget(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.now -= size


def peak_bytes(function: Callable[[], object], given: Iterable[Tensor] = ()) -> int:
    """The most that tensors made by ``function`` hold at one time.

    Args:
        function: What to run; what it returns counts.
        given: Tensors that are there already.
    """
    with LiveMemory(given) as live:
        kept = function()
        del kept
    return live.peak
