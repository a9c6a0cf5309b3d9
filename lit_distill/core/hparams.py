"""Which constructor arguments may stand in a checkpoint."""

import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

PLAIN = (bool, int, float, str, type(None))


def objects(cls: type) -> list[str]:
    """Names of the constructor arguments of ``cls`` and its bases that are not plain values.

    Networks, losses and optimizer factories are kept out of hyperparameters: Lightning would deep-copy them
    (a teacher twice in memory) and pickle them into the checkpoint, which then no longer loads with
    ``weights_only``. Arguments without a type hint count as objects.

    Example:
        >>> import torch
        >>> class Example:
        ...     def __init__(self, net: torch.nn.Module, alpha: float, sizes: tuple[int, ...] | None) -> None: ...
        >>> objects(Example)
        ['net']
    """
    return sorted({name for klass in cls.__mro__ for name in _objects_of(klass)})


def _objects_of(klass: type) -> Iterator[str]:
    if "__init__" not in vars(klass) or klass.__module__.startswith(("lightning.", "torch.")):
        return
    init = vars(klass)["__init__"]
    if not isinstance(init, types.FunctionType):
        return
    code = init.__code__
    names = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]
    try:
        hints = get_type_hints(init)
    except NameError:  # a hint imported only for type checkers
        hints = {}
    yield from (name for name in names if not plain(hints.get(name, object)))


def plain(hint: Any) -> bool:
    """Whether values of this type are numbers, strings, or containers of them."""
    if hint in PLAIN or get_origin(hint) is Literal:
        return True
    if get_origin(hint) in (Union, types.UnionType, list, tuple, dict):
        return all(plain(inner) for inner in get_args(hint) if inner is not Ellipsis)
    return False
