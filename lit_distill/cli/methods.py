"""``lit-distill methods``: every method of the library in a table, or all about one.

Everything shown is read from the source with ``ast``: nothing is imported, so the answer comes at once and
cannot differ from the docstrings.
"""

import argparse
import ast
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from textwrap import dedent, fill, indent

from lit_distill import presets
from lit_distill.errors import InputError

SECTIONS = ("Paper", "Args", "Shape", "Raises", "Traps", "Code", "Example")
_MATH = re.compile(r"^\.\. math::((?:.*)(?:\n(?:[ \t].*)?$)*)", re.M)


@dataclass(frozen=True)
class Argument:
    """A constructor argument as signature and docstring give it; ``default`` is None where it is required."""

    type: str
    default: str | None
    text: str = ""
    inherited: bool = False


@dataclass(frozen=True)
class Method:
    """What a class and its docstring say of a method; sections are the docstring's text."""

    name: str
    family: str
    path: str
    title: str
    about: str
    formula: str
    authors: str
    year: int | None
    link: str | None
    sections: dict[str, str]
    arguments: dict[str, Argument]
    presets: list[str]
    is_loss: bool


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
        _method(path, node, [short[preset] for preset in users.get(node.name.lower(), [])])
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
    settings = [f"{name}: {value}" for name, value in _settings(method, json.dumps).items()]
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
    parts = ("logits", "features") if "layers" in method.arguments else ("logits",)
    build = "loss.build(student, teacher)  # once, before the optimizer: makes what depends on shapes"
    return "\n".join(
        [
            "from lit_distill.core.outputs import Outputs",
            f"from {module} import {method.name}",
            "",
            f"student = Outputs({', '.join(f'student_{part}' for part in parts)})",
            f"teacher = Outputs({', '.join(f'teacher_{part}' for part in parts)})",
            f"loss = {method.name}({values})",
            *([build] if "features" in parts else []),
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


def _method(path: Path, node: ast.ClassDef, used_in: list[str]) -> Method:
    module = path.relative_to(presets.PACKAGE.parent).with_suffix("").parts
    folders = [part for part in module[1:-1] if part != "losses"]
    title, _, body = (ast.get_docstring(node) or "").partition("\n")
    sections, about = _sections(body)
    authors, year, link = _paper(sections["Paper"])
    return Method(
        name=node.name,
        family=folders[0] if folders else "general",
        path=".".join((*module, node.name)),
        title=title,
        about=_MATH.sub(lambda m: _indent(_dedent(m[1])) + "\n", about).strip("\n"),
        formula="\n".join(_dedent(text) for text in _MATH.findall(about)),
        authors=authors,
        year=year,
        link=link,
        sections=sections,
        arguments=_arguments(path, node),
        presets=used_in,
        is_loss=any(base.name == "DistillLoss" for _, base in _lineage(path, node)),
    )


def _sections(body: str) -> tuple[dict[str, str], str]:
    """The sections of a docstring, and what stands outside them.

    A section starts at its name, with or without text on that line, and ends at the next one, or where a
    paragraph is not indented.
    """
    found: dict[str, list[str]] = {name: [] for name in SECTIONS}
    about: list[str] = []
    into, previous = about, ""
    for line in body.splitlines():
        name, colon, text = line.partition(":")
        if colon and name in found:
            into, line = found[name], text
        elif line and line[0] != " " and not previous.strip():
            into = about
        into.append(line)
        previous = line
    rest = re.sub(r"\n{3,}", "\n\n", "\n".join(about))
    return {name: _dedent("\n".join(lines)) for name, lines in found.items()}, rest


def _dedent(text: str) -> str:
    """Text under a name, or beside and under it: only the lines below the first share an indentation."""
    first, _, rest = text.partition("\n")
    return f"{first.strip()}\n{dedent(rest)}".strip()


def _paper(text: str) -> tuple[str, int | None, str | None]:
    """Authors and venue in a few words, the year, and the link of ``Authors, Title, Venue Year, https://...``.

    Example:
        >>> _paper("Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015, https://arxiv.org/abs/1412.6550")
        ('Romero et al., ICLR', 2015, 'https://arxiv.org/abs/1412.6550')
    """
    text = " ".join(text.split())
    link = re.search(r"https://[^\s,;)]*[^\s,;).]", text)
    before = re.sub(r" *\([^)]*\)", "", text[: link.start() if link else None])
    chunks = before.strip(" ,.(").split(", ")
    years = re.findall(r"\b(?:19|20)\d\d\b", chunks[-1])
    venue = " ".join(re.sub(r"\b(?:19|20)\d\d\b", "", chunks[-1]).split())
    authors = chunks[0]
    if len(chunks) > 3 and re.fullmatch(r"[\w'-]+|[\w'-]+ and [\w'-]+", chunks[1]):
        authors += " et al."
    return f"{authors}, {venue}", int(years[-1]) if years else None, link[0] if link else None


def _arguments(path: Path, node: ast.ClassDef) -> dict[str, Argument]:
    """Constructor arguments, with those that pass through ``**kwargs`` to a base class."""
    inherited = next(filter(None, (_arguments(*base) for base in _bases(path, node))), {})
    texts = _entries(_sections(ast.get_docstring(node) or "")[0]["Args"])
    init = next((d for d in node.body if isinstance(d, ast.FunctionDef) and d.name == "__init__"), None)
    own = _own_arguments(init) if init else {}
    passed = _passed_on(init, inherited) if init else inherited
    arguments = own | {n: replace(a, inherited=True) for n, a in passed.items() if n not in own}
    documented = {name: argument.text for name, argument in inherited.items()} | texts
    return {name: replace(argument, text=documented.get(name, "")) for name, argument in arguments.items()}


def _entries(text: str) -> dict[str, str]:
    """The text of each ``name: text`` of an Args section."""
    parts = re.split(r"(?m)^(\w+):", text)[1:]
    return {name: " ".join(entry.split()) for name, entry in zip(parts[::2], parts[1::2], strict=True)}


def _own_arguments(init: ast.FunctionDef) -> dict[str, Argument]:
    args = [*init.args.posonlyargs, *init.args.args][1:]
    missing: list[ast.expr | None] = [None] * (len(args) - len(init.args.defaults))
    defaults = [*missing, *init.args.defaults, *init.args.kw_defaults]
    return {
        a.arg: Argument(
            type=ast.unparse(a.annotation) if a.annotation else "Any",
            default=ast.unparse(default) if default else None,
        )
        for a, default in zip([*args, *init.args.kwonlyargs], defaults, strict=True)
    }


def _passed_on(init: ast.FunctionDef, inherited: dict[str, Argument]) -> dict[str, Argument]:
    """Those arguments of the base class that ``super().__init__(..., **kwargs)`` leaves to the caller."""
    for call in ast.walk(init):
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "super().__init__":
            fixed = {keyword.arg for keyword in call.keywords}
            if None in fixed:  # the keyword without a name is **kwargs
                names = list(inherited)[len(call.args) :]
                return {name: inherited[name] for name in names if name not in fixed}
    return {}


def _lineage(path: Path, node: ast.ClassDef) -> Iterator[tuple[Path, ast.ClassDef]]:
    """The base classes within the library, and theirs."""
    for base in _bases(path, node):
        yield base
        yield from _lineage(*base)


def _bases(path: Path, node: ast.ClassDef) -> list[tuple[Path, ast.ClassDef]]:
    found = (_resolve(path, ast.unparse(base).partition("[")[0]) for base in node.bases)
    return [base for base in found if base]


def _resolve(path: Path, name: str) -> tuple[Path, ast.ClassDef] | None:
    """File and definition of the class called ``name`` in a file of the library; None if it is not ours."""
    for node in presets.parsed(path).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return path, node
        if isinstance(node, ast.ImportFrom) and (file := _file(node.module or "")):
            for alias in node.names:
                if name == (alias.asname or alias.name):
                    return _resolve(file, alias.name)
    return None


def _file(module: str) -> Path | None:
    root, *parts = module.split(".")
    place = presets.PACKAGE.joinpath(*parts)
    files = (place / "__init__.py", place.with_suffix(".py")) if root == presets.PACKAGE.name else ()
    return next((file for file in files if file.is_file()), None)
