"""The presets: complete YAML files that travel with the library.

Nothing here imports torch, so that the command line answers at once.
"""

import ast
import re
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache, partial
from pathlib import Path

from lit_distill.errors import InputError

PACKAGE = Path(__file__).parent

#: Folders of files that are no runs by themselves but change, repeat or chain them.
PARTS = ("logger", "stages", "sweeps", "trainer")


def folder() -> Path:
    """Where the presets are: inside the installed package, or beside it in a checkout.

    Raises:
        InputError: When this installation has neither.
    """
    places = (PACKAGE / "configs", PACKAGE.parent / "configs")
    for place in places:
        if place.is_dir():
            return place
    raise InputError(f"no presets in {' or '.join(map(str, places))}: reinstall lit-distill to get them")


def all_presets() -> list[Path]:
    """Every preset, sorted by family and name."""
    return sorted(folder().rglob("*.yaml"))


def full_name(preset: Path) -> str:
    """``family/name`` of a preset."""
    return preset.relative_to(folder()).with_suffix("").as_posix()


def short_names(presets: list[Path]) -> dict[Path, str]:
    """The shortest name that :func:`find` accepts for each of all ``presets``."""
    meant = _by_stem(presets)
    return {p: p.stem if meant[p.stem.lower()] == [p] else full_name(p) for p in presets}


def _by_stem(presets: list[Path]) -> dict[str, list[Path]]:
    """What a name without its family means: a part only where no run has that name (a sweep is named as its run)."""
    found: dict[str, list[Path]] = {}
    for preset in presets:
        found.setdefault(preset.stem.lower(), []).append(preset)
    return {stem: [p for p in same if p.parent.name not in PARTS] or same for stem, same in found.items()}


@cache
def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file of the library."""
    return ast.parse(path.read_text(encoding="utf-8"))


def method_classes() -> Iterator[tuple[Path, ast.ClassDef]]:
    """Every class of the library whose docstring names its paper, with its file. Nothing is imported."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if "Paper:" not in path.read_text(encoding="utf-8"):  # parsing is the slow part
            continue
        for node in parsed(path).body:
            if isinstance(node, ast.ClassDef) and re.search(r"^Paper:", ast.get_docstring(node) or "", re.M):
                yield path, node


def by_class(presets: list[Path]) -> dict[str, list[Path]]:
    """Which of ``presets`` build a class, by its name in lower case; its own preset comes first.

    A preset is a class's own when its name starts with the name of the class. Among equals the one on the
    digits, which needs no download, comes first.
    """
    found: dict[str, list[Path]] = {}
    for preset in presets:
        settings = re.sub(r"(?m)(^|\s)#.*$", "", preset.read_text(encoding="utf-8"))
        paths = re.findall(r"\bclass_path[\"']?:\s*[\"']?([\w.]+)", settings)
        for name in sorted({path.rpartition(".")[2].lower() for path in paths}):
            found.setdefault(name, []).append(preset)
    return {name: sorted(users, key=partial(_distance, name)) for name, users in found.items()}


def _distance(name: str, preset: Path) -> tuple[bool, bool, int, str]:
    stem = preset.stem.lower()
    own = stem == name or stem.startswith(f"{name}_")
    return not own, not stem.endswith("_digits"), len(stem), stem


def find(name: str) -> Path:
    """The preset that ``name`` means.

    Args:
        name: A file of yours, ``configs/logit/kd_digits.yaml``, ``logit/kd_digits``, ``kd_digits``, or the
            method alone, ``kd`` (in any case): of several presets the one on the digits.

    Raises:
        InputError: When nothing has that name, or several presets do.

    Example:
        >>> find("KD").name
        'kd_digits.yaml'
    """
    given = Path(name)
    if given.suffix and given.is_file():  # without a suffix it is a name, even beside a file called "kd"
        return given
    wanted = given.as_posix().lower().removeprefix("configs/").removesuffix(".yaml")
    presets = all_presets()
    for preset in presets:
        if full_name(preset).lower() == wanted:
            return preset
    stems = _by_stem(presets)
    if wanted in stems:
        first, *others = stems[wanted]
        if others:
            raise InputError(
                f"preset {name!r} could be {' or '.join(map(full_name, stems[wanted]))}: name the family too"
            )
        return first
    users = by_class(presets)
    methods = {node.name.lower() for _, node in method_classes()} & users.keys()
    if wanted in methods:
        return users[wanted][0]
    names = {full_name(p).lower() for p in presets} | stems.keys() | methods
    close = get_close_matches(wanted, sorted(names))
    accepted = f"close to it: {', '.join(close)}" if close else "`lit-distill preset` lists them all"
    raise InputError(f"preset {name!r}: no file, preset or method with a preset has this name; {accepted}")
