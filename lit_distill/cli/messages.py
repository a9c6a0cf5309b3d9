"""One line out of a parser's many."""

import re
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from inspect import isclass

from lit_distill.cli import COMMANDS
from lit_distill.errors import InputError

Keys = tuple[str, ...]


class Refused(InputError):
    """A setting that cannot be used.

    Args:
        keys: Where it stands, from the outside in.
        text: What is wrong with it.
    """

    def __init__(self, keys: Keys, text: str) -> None:
        super().__init__(f"{'.'.join(keys)}: {text}" if keys else text)
        self.keys = keys
        self.text = text


def refusal(message: str, within: Refused | None, subject: str, names: Sequence[str]) -> Refused:
    r"""What a user can do something with in a message of jsonargparse.

    Args:
        message: The message.
        within: The refusal by the parser of a part of the value, if it is this that the message passes on.
        subject: Name of the class or function whose arguments were parsed; empty for the command line.
        names: The names of its arguments.

    Example:
        >>> long = 'Parser key "temperature":\n  Expected a <class \'float\'>. Got value: hot'
        >>> inner = refusal(long, None, "KD", ["temperature", "weight"])
        >>> print(inner)
        KD takes a float as temperature, not 'hot'
        >>> print(refusal(f'Parser key "losses":\n  {inner}', inner, "Distiller", []))
        losses: KD takes a float as temperature, not 'hot'
        >>> print(refusal("Option 'temprature' is not accepted", None, "KD", ["temperature", "weight"]))
        KD has no argument temprature; did you mean temperature?
    """
    found: list[str] = []
    rest = message.strip()
    while key := re.match(r'Parser key "([^"]+)":\s*', rest):
        found.append(key[1])
        rest = rest[key.end() :]
    keys = tuple(found)
    # A flag arrives with its whole name, also within a dict; a value in YAML does not.
    flag = re.search(r"Given value: NestedArg\(key='([^']+)', val=.*\)$", rest)
    if flag:
        keys = (f"--{'.'.join(keys)}.{flag[1]}",)
    if within is not None:
        return Refused(keys if flag else keys + within.keys, within.text)
    return _leaf(keys, rest, subject, names)


def _leaf(keys: Keys, rest: str, subject: str, names: Sequence[str]) -> Refused:
    if rest.startswith('expected "subcommand"'):
        return Refused(keys, f"which command? Accepted first are {', '.join(COMMANDS)}")
    if absent := re.match(r"the following arguments are required: (.*)", rest):
        needed = absent[1].replace("fit.", "--")
        return Refused(keys, f"{subject} needs {needed}" if subject else f"{needed} missing; --config names a preset")
    if option := re.match(r"(?:Subcommand '\w+'|Group '(\w+)') does not accept option '([^']+)'", rest):
        name = f"{option[1]}.{option[2]}" if option[1] else option[2]
        return Refused(keys, f"{_setting(name)}: there is no such setting{_near(name, names)}")
    if option := re.match(r"Option '([^']+)' is not accepted$", rest):
        name = _setting(option[1])
        return Refused(keys, f"{subject} has no argument {name}{_near(name, names) or _accepted(names)}")
    if unknown := re.match(r"unrecognized arguments: (\S+)", rest):
        name = unknown[1].partition("=")[0]
        hint = _near(name, [f"--{n}" for n in names]) if name.startswith("-") else "; --config names a preset"
        return Refused(keys, f"{name}: there is no such option{hint}")
    if missing := re.match(r"File does not exist: '(.*)'", rest):
        return Refused(keys, f"{missing[1]} does not exist; `lit-distill preset` lists the presets, and prints one")
    reason, given = _reason(rest)
    if given is None or not keys or not subject:
        return Refused(keys, reason if given is None else f"accepted is {reason}, not {given!r}")
    return Refused(keys[:-1], f"{subject} takes {reason} as {keys[-1]}, not {given!r}")


def _reason(rest: str) -> tuple[str, str | None]:
    """Why a value was refused: a reason, or the types that were expected and the value."""
    value = re.search(r"(?:Got value|Given value): (.*)", rest)
    tried = re.search(r"Errors:\n(.*?)\n\s*Given value type:", rest, re.S)
    errors = re.split(r"^\s*- ", tried[1], flags=re.M)[1:] if tried else [rest]
    # That a path was tried too, or nothing at all, is no help.
    errors = [" ".join(e.split()) for e in errors if "NoneType" not in e and "import path format" not in e]
    types = [re.fullmatch(r"Expected an? (<class '[^']+'>|typing\.\S.*?)(?:\. Got value: .*)?", e) for e in errors]
    if value and errors and all(types):
        words = " or ".join(_type(kind[1]) for kind in types if kind).split(" or ")
        return " or ".join(dict.fromkeys(words)), value[1]
    reasons = [error for error, kind in zip(errors, types, strict=True) if not kind] or errors or [rest]
    return _explained(reasons[0]), None


def _explained(reason: str) -> str:
    if name := re.search(r"Expected a dot import path string: (\S+)", reason):
        if name[1] == "None":
            return "a class is needed here, not null"
        return f"no class is called {name[1]}{_near(name[1], _classes())}"
    if lacks := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", reason):
        return f"{lacks[1]} has no {lacks[2]}{_near(lacks[2], dir(sys.modules.get(lacks[1])))}"
    if module := re.search(r"No module named '[\w.]+'", reason):
        return module[0]
    return " ".join(reason.split())


def _type(name: str) -> str:
    """A type as a user would call it."""
    if plain := re.fullmatch(r"<class '([^']+)'>", name):
        word = {"int": "an int", "bool": "true or false", "list": "a list", "dict": "a dict"}.get(plain[1])
        return word or f"a {plain[1].rpartition('.')[2]}"
    if literal := re.fullmatch(r"typing\.Literal\[(.*)\]", name):
        return literal[1].replace("'", "").replace(", ", " or ")
    return name.removeprefix("typing.")


def _setting(name: str) -> str:
    return name.replace("init_args.", "").removesuffix(".class_path")


def _near(name: str, names: Sequence[str]) -> str:
    """``"; did you mean X?"`` where a part of a dotted name is close to a known one, else nothing."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        if near := get_close_matches(".".join(parts[:end]), [n for n in names if n.count(".") == end - 1], n=3):
            return f"; did you mean {' or '.join(near)}?"
    return ""


def _accepted(names: Sequence[str]) -> str:
    return f"; accepted are {', '.join(names)}" if names else "; it takes none"


def _classes() -> list[str]:
    """Names of the classes that a preset may name without their path."""
    modules = [module for name, module in sys.modules.items() if name.startswith("lit_distill.")]
    return sorted({name for module in modules for name, value in vars(module).items() if isclass(value)})
