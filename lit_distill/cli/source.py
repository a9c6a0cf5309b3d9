"""What the library's source says of its methods, read with ``ast``: nothing is imported."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import dedent, indent

from lit_distill import presets

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
    before_use: list[str]


def method(path: Path, node: ast.ClassDef, used_in: list[str]) -> Method:
    """What is known of a class that stands for a method.

    Args:
        path: The file it is defined in.
        node: Its definition.
        used_in: Names of the presets that build it.
    """
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
        about=_MATH.sub(lambda m: indent(_dedent(m[1]), "    ") + "\n", about).strip("\n"),
        formula="\n".join(_dedent(text) for text in _MATH.findall(about)),
        authors=authors,
        year=year,
        link=link,
        sections=sections,
        arguments=_arguments(path, node),
        presets=used_in,
        is_loss=any(base.name == "DistillLoss" for _, base in _lineage(path, node)),
        before_use=_before_use(path, node),
    )


def _before_use(path: Path, node: ast.ClassDef) -> list[str]:
    """Which of ``attach`` and ``build`` do something for this class; a modifier only hands them on."""
    classes = [node, *(base for _, base in _lineage(path, node) if base.name not in ("DistillLoss", "Modifier"))]
    defined = {item.name for owner in classes for item in owner.body if isinstance(item, ast.FunctionDef)}
    return [name for name in ("attach", "build") if name in defined]


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
