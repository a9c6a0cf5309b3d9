"""``lit-distill methods``: every method of the library in a table, or all about one.

Everything shown is read from the source: the answer comes at once and cannot differ from the docstrings.
"""

import argparse
import ast
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from difflib import get_close_matches
from textwrap import fill, indent

from lit_distill import presets
from lit_distill.cli.source import Method, method
from lit_distill.errors import InputError


def run(args: list[str]) -> int:
    """Run ``lit-distill methods`` with these arguments.

    Args:
        args: What follows ``methods`` on the command line.

    Returns:
        The exit status, 0.

    Raises:
        InputError: When the name is neither a method nor a family.
    """
    parser = argparse.ArgumentParser(
        prog="lit-distill methods", description="Table of all methods or of a family; or all about a method."
    )
    parser.add_argument("name", nargs="?", help="a family (logit, feature, ...) or a method (kd)")
    parser.add_argument("--json", action="store_true", help="print a JSON list with everything about each")
    given = parser.parse_args(args)
    every = methods()
    chosen = choose(every, given.name) if given.name else every
    if given.json:
        print(json.dumps([asdict(method) for method in chosen], indent=2))
    elif given.name and given.name.lower() in {method.name.lower() for method in chosen}:
        print("\n\n".join(map(explain, chosen)))
    else:
        # Nothing is cut where the output is no terminal: it may be searched.
        print(table(chosen, shutil.get_terminal_size((10_000, 24)).columns))
    return 0


def methods() -> list[Method]:
    """Every method of the library, sorted by family and year."""
    every = presets.all_presets()
    short, users = presets.short_names(every), presets.by_class(every)
    found = [
        method(path, node, [short[preset] for preset in users.get(node.name.lower(), [])])
        for path, node in presets.method_classes()
    ]
    return sorted(found, key=lambda m: (m.family, m.year or 0, m.name.lower()))


def choose(every: list[Method], name: str) -> list[Method]:
    """The methods of the family, or with the name, ``name``.

    Raises:
        InputError: When it is neither.
    """
    wanted = name.lower()
    for key in ("family", "name"):
        if chosen := [method for method in every if getattr(method, key).lower() == wanted]:
            return chosen
    families = sorted({method.family for method in every})
    known = {key.lower(): key for key in (*families, *(method.name for method in every))}
    close = [known[key] for key in get_close_matches(wanted, sorted(known))] or families
    raise InputError(f"methods: {name!r} is no method and no family; close to it: {', '.join(close)}")


def table(rows: list[Method], columns: int) -> str:
    """``rows`` as aligned text of at most ``columns`` characters a line."""
    head = ("method", "family", "paper", "year", "preset", "what it does")
    cells = [head] + [
        (m.name, m.family, m.authors, str(m.year or ""), next(iter(m.presets), ""), m.title) for m in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    room = columns - sum(widths[i] for i in (0, 1, 3, 4)) - 2 * (len(head) - 1)
    # The title gives way first, down to half of what it shares with the authors.
    widths[5] = max(1, room - widths[2], room // 2)
    widths[2] = max(1, min(widths[2], room - widths[5]))
    lines = ("  ".join(f"{_cut(c, w):<{w}}" for c, w in zip(row, widths, strict=True)) for row in cells)
    return "\n".join(line[:columns].rstrip() for line in lines)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


def explain(method: Method) -> str:
    """Everything about one method."""
    arguments = "\n".join(
        f"{name}: {a.type}{'' if a.default is None else f' = {a.default}'}\n{_indent(fill(a.text, 100))}".rstrip()
        for name, a in method.arguments.items()
    )
    head = f"{method.name} ({method.family}{f', {method.year}' if method.year else ''})\n{method.title}"
    parts = {
        "Arguments": arguments,
        "Shapes": method.sections["Shape"],
        "Raises": method.sections["Raises"],
        "Traps": method.sections["Traps"],
        "Paper": method.sections["Paper"],
        "Official code": method.sections["Code"],
        "Presets": "\n".join(method.presets),
        "In YAML" + (", under model.init_args" if method.is_loss else ""): yaml_usage(method),
        "In Python": python_usage(method),
    }
    text = [f"{name}\n{_indent(content)}" for name, content in parts.items() if content]
    # On a terminal the roles of Sphinx (:math:`T^2`, :meth:`build`) are noise.
    return re.sub(r":[a-z:]+:(?=`)", "", "\n\n".join([head, *filter(None, [method.about]), *text]))


def yaml_usage(method: Method) -> str:
    """How a config names the method."""
    # An optimizer's parameters come from the module.
    settings = [f"{name}: {value}" for name, value in _settings(method, json.dumps).items() if name != "params"]
    lines = [f"class_path: {method.name if method.is_loss else method.path}"]
    lines += ["init_args:", *(f"  {line}" for line in settings)] if settings else []
    if method.is_loss:
        lines = ["losses:", f"  {method.name.lower()}:", *(f"    {line}" for line in lines)]
    return "\n".join(lines)


def python_usage(method: Method) -> str:
    """How a plain PyTorch loop uses the method."""
    module = method.path.rpartition(".")[0]
    values = ", ".join(f"{name}={value}" for name, value in _settings(method, repr).items())
    if not method.is_loss:
        return f"from {module} import {method.name}\n\n{method.name}({values})"
    parts = ("logits", "features") if {"layers", "layer", "stages"} & method.arguments.keys() else ("logits",)
    first = {
        "attach": "loss.attach(student_network, teacher_network)  # once: uses a part of one",
        "build": "loss.build(student, teacher)  # once, before the optimizer: makes what depends on shapes",
    }
    return "\n".join(
        [
            "from lit_distill.core.outputs import Outputs",
            f"from {module} import {method.name}",
            "",
            f"student = Outputs({', '.join(f'student_{part}' for part in parts)})",
            f"teacher = Outputs({', '.join(f'teacher_{part}' for part in parts)})",
            f"loss = {method.name}({values})",
            *(line for name, line in first.items() if name in method.before_use),
            "value = loss(student, teacher, target)",
        ]
    )


def _settings(method: Method, write: Callable[[object], str]) -> dict[str, str]:
    """What a short example sets: the method's own arguments, and what is required."""
    settings = {}
    for name, argument in method.arguments.items():
        if name == "layers":
            settings[name] = write({"student.path": "teacher.path"})
        elif argument.default is None:
            settings[name] = "..."
        elif not argument.inherited and (value := _literal(argument.default)) is not ...:
            settings[name] = write(value)
    return settings


def _literal(default: str) -> object:
    """The value of a default; ``...`` for an expression, which an example leaves out."""
    try:
        return ast.literal_eval(default)
    except ValueError:
        return ...


def _indent(text: str) -> str:
    return indent(text, "    ")
