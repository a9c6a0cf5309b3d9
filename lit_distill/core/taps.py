"""Activations of named submodules."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

from torch import Tensor, nn

from lit_distill.errors import InputError

INPUT = ":input"


class Tap:
    """Forward hook that files one module's output (or input) under its path.

    A callable object and not a closure: ``deepcopy`` of a tapped network copies the store along with it, so an
    averaged copy does not write into the original's, and ``torch.compile`` traces it.
    """

    def __init__(self, path: str, seen: dict[str, Tensor]) -> None:
        self.path = path
        self.seen = seen

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Called by torch after each forward pass of the module."""
        self.seen[self.path] = args[0] if self.path.endswith(INPUT) else output


class Taps:
    """Activations of the submodules of ``network`` named by ``paths``.

    ``"layer3"`` is the output of ``network.get_submodule("layer3")`` and ``"layer3:input"`` its first input; the
    network itself is ``""``. Register before ``torch.compile``: hooks added to a compiled network never fire.

    An ``inplace=True`` activation whose input is tapped stops working in place, which changes no value.

    Args:
        network: The network to tap.
        paths: ``get_submodule`` paths, each with an optional ``:input``.
        name: What messages call the network.

    Raises:
        InputError: When a path names no submodule; the message lists names that come close.

    Example:
        >>> import torch
        >>> network = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
        >>> taps = Taps(network, ["0", "1:input"])
        >>> _ = network(torch.zeros(2, 4))
        >>> sorted(taps.pop())
        ['0', '1:input']
    """

    def __init__(self, network: nn.Module, paths: Iterable[str], name: str = "network") -> None:
        self.seen: dict[str, Tensor] = {}
        self.paths = sorted(set(paths))
        self.name = name
        for path in self.paths:
            module = submodule(network, path.removesuffix(INPUT), name)
            module.register_forward_hook(Tap(path, self.seen))
            if path.endswith(INPUT) and getattr(module, "inplace", False):
                module.inplace = False  # type: ignore[assignment]  # it would overwrite what is captured

    def pop(self) -> dict[str, Tensor]:
        """The activations of the last forward pass, by path; the store is emptied."""
        seen = dict(self.seen)
        self.seen.clear()
        return seen

    @contextmanager
    def checked(self, network: nn.Module) -> Iterator[None]:
        """Check, around one forward pass in the ``with`` block, that every tap gives a tensor that stays as it is.

        Raises:
            InputError: When a tapped submodule does not run, gives no tensor, or when a later in-place operation
                (an ``inplace=True`` activation, say) overwrites what was captured.
        """
        # Versions are compared here and not in the hook, which must stay traceable by torch.compile.
        versions: dict[str, int] = {}
        watches = [
            submodule(network, path.removesuffix(INPUT)).register_forward_hook(_Watch(path, versions, self.seen))
            for path in self.paths
        ]
        try:
            yield
        finally:
            for watch in watches:
                watch.remove()
        for path in self.paths:
            if path not in versions:
                raise InputError(f"layers: {path!r} of the {self.name} does not run in its forward pass")
            if not isinstance(value := self.seen[path], Tensor):
                raise InputError(
                    f"layers: {path!r} of the {self.name} gives a {type(value).__name__}; accepted are submodules that "
                    "give one tensor"
                )
            if value._version != versions[path]:
                raise InputError(
                    f"layers: what {path!r} of the {self.name} gives is overwritten in place by a later module; tap "
                    "the module after it, or build that one with inplace=False"
                )


class _Watch:
    """Notes the version of what a tap has just captured."""

    def __init__(self, path: str, versions: dict[str, int], seen: dict[str, Tensor]) -> None:
        self.path, self.versions, self.seen = path, versions, seen

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.versions[self.path] = getattr(self.seen[self.path], "_version", 0)


def submodule(network: nn.Module, path: str, name: str = "network") -> nn.Module:
    """``network.get_submodule(path)``, or an :class:`InputError` that lists names that come close."""
    try:
        return network.get_submodule(path)
    except AttributeError:
        names = [candidate for candidate, _ in network.named_modules() if candidate]
        near = get_close_matches(path, names, n=5, cutoff=0.4) or names[:10]
        raise InputError(
            f"layers: the {name} {type(network).__name__} has no submodule {path!r}; close: {', '.join(near)}"
        ) from None
