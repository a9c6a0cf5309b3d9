"""Python that loads a student, written out from the settings that built it."""

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, get_origin


def loading(settings: Any, path: str | Path) -> str | None:
    """One line of Python after which ``student`` is the network with the weights of a file.

    Args:
        settings: What built the network, as in YAML: ``class_path`` and ``init_args``.
        path: The file of weights.

    Returns:
        The line; ``None`` when the settings are not known, as for a network that was built in Python.

    Example:
        >>> mlp = {"class_path": "lit_distill.models.MLP", "init_args": {"hidden": [32], "num_classes": 10}}
        >>> print(loading(mlp, "s.safetensors"))
        import lit_distill.models; student = lit_distill.models.restored(lit_distill.models.MLP(hidden=[32]), \
's.safetensors')
    """
    if not is_call(settings):
        return None
    modules = {"lit_distill.models"}
    network = call(settings, modules)
    return f"import {', '.join(sorted(modules))}; student = lit_distill.models.restored({network}, {str(path)!r})"


def is_call(settings: Any) -> bool:
    """Whether settings name a class or a function to call."""
    return isinstance(settings, Mapping) and "class_path" in settings


def call(settings: Mapping[str, Any], modules: set[str]) -> str:
    """The expression that builds what ``settings`` describe, without arguments that only repeat a default.

    Args:
        settings: ``class_path`` and, if there are arguments, ``init_args`` and ``dict_kwargs``.
        modules: The modules that the expression needs are added.
    """
    module, _, name = settings["class_path"].rpartition(".")
    modules.add(module)
    parameters = inspect.signature(getattr(import_module(module), name)).parameters
    given = {**(settings.get("init_args") or {}), **(settings.get("dict_kwargs") or {})}
    arguments = [
        f"{key}={'lambda: ' * builds(parameters.get(key))}{expression(value, modules)}"
        for key, value in given.items()
        if key not in parameters or not same(value, parameters[key].default)
    ]
    return f"{module}.{name}({', '.join(arguments)})"


def expression(value: Any, modules: set[str]) -> str:
    """The expression for one argument."""
    if isinstance(value, Mapping):
        if is_call(value):
            return call(value, modules)
        return "{" + ", ".join(f"{k!r}: {expression(v, modules)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(expression(v, modules) for v in value) + "]"
    return repr(value)


def builds(parameter: inspect.Parameter | None) -> bool:
    """Whether an argument is what builds a network, as ``lit_distill.models.seeded`` takes, and not the network."""
    return parameter is not None and get_origin(parameter.annotation) is Callable


def same(value: Any, default: Any) -> bool:
    """Whether two values are equal; a tuple becomes a list in YAML."""
    value, default = (list(v) if isinstance(v, tuple) else v for v in (value, default))
    return bool(value == default)
