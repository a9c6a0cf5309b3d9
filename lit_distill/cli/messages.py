"""One line out of a parser's many."""

import inspect
import re
import sys
from difflib import get_close_matches


def one_line(message: str) -> str:
    """The part of a jsonargparse message that tells the user what to mend, with a close name where one is known.

    Example:
        >>> one_line("Parser key 'kd':\\n  Expected a <class 'float'>. Got value: hot")
        "Parser key 'kd': Expected a <class 'float'>. Got value: hot"
    """
    lines = [line.strip() for line in message.strip().splitlines()]
    # A union tried several types; the useful complaint is that of the class, and the rest only echoes the input.
    errors = [line[2:] for line in lines if line.startswith("- ") and "NoneType" not in line]
    text = f"{lines[0]} {errors[0]}" if errors else " ".join(lines)
    return text + suggestion(text)


def suggestion(text: str) -> str:
    """``"; did you mean X?"`` for an unknown option or class whose name is close to a known one, else nothing."""
    option = re.search(r"ption '([\w.]+)' is not accepted|does not accept option '([\w.]+)'", text)
    if option:
        word = (option[1] or option[2]).split(".")
        candidates = _arguments()
        near = next((get_close_matches(part, candidates, n=1) for part in word if part not in candidates), [])
    elif unknown := re.search(r"dot import path string: (\w+)$", text):
        near = get_close_matches(unknown[1], _classes(), n=3)
    else:
        near = []
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _known() -> list[type]:
    """Classes that a preset may name: those of this package, and Lightning's Trainer."""
    modules = [module for name, module in sys.modules.items() if name.startswith("lit_distill.")]
    found = {value for module in modules for value in vars(module).values() if inspect.isclass(value)}
    return sorted(found, key=lambda cls: cls.__name__)


def _classes() -> list[str]:
    return [cls.__name__ for cls in _known()]


def _arguments() -> set[str]:
    names = {"model", "data", "trainer", "optimizer", "class_path", "init_args", "dict_kwargs"}
    for cls in _known():
        for klass in cls.__mro__:
            init = vars(klass).get("__init__")
            if inspect.isfunction(init):
                names |= set(inspect.signature(init).parameters)
    return names
