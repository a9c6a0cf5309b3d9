"""``lit-distill preset``: print a preset, to save it and change it."""

import argparse
import shutil
import sys
from pathlib import Path

from lit_distill import presets

_RUN = "lit-distill fit --config {file}"
_WITH = "lit-distill fit --config PRESET.yaml --config {file}"
# By folder; every other folder holds runs.
_USES = {"logger": _WITH, "stages": "lit-distill stages {file}", "sweeps": "wandb sweep {file}", "trainer": _WITH}


def run(args: list[str]) -> int:
    """Run ``lit-distill preset`` with these arguments.

    Args:
        args: What follows ``preset`` on the command line.

    Returns:
        The exit status, 0.

    Raises:
        InputError: When the name means no preset.
    """
    parser = argparse.ArgumentParser(
        prog="lit-distill preset",
        description="Print a preset; without a name, list them all.",
        epilog="Save and run one: lit-distill preset kd > mine.yaml; lit-distill fit --config mine.yaml",
    )
    parser.add_argument("name", nargs="?", help="e.g. kd_digits, logit/kd_digits, or a method alone: kd")
    name = parser.parse_args(args).name
    if name is None:
        print(_listing())
        return 0
    preset = presets.find(name)
    # Bytes, so that a redirected copy equals the preset whatever the encoding of the terminal.
    sys.stdout.buffer.write(preset.read_bytes())
    sys.stdout.flush()
    print(_how_to_run(preset, name), file=sys.stderr)
    return 0


def _listing() -> str:
    every = presets.all_presets()
    names = [presets.full_name(preset) for preset in every]
    wide = max(map(len, names), default=0)
    # Nothing is cut where the output is no terminal: it may be searched.
    columns = shutil.get_terminal_size((10_000, 24)).columns
    return "\n".join(
        f"{name:<{wide}}  {_headline(preset)}"[:columns].rstrip() for name, preset in zip(names, every, strict=True)
    )


def _headline(preset: Path) -> str:
    lines = preset.read_text(encoding="utf-8").splitlines()
    return next((line.lstrip("# ") for line in lines if line.startswith("#")), "")


def _how_to_run(preset: Path, name: str) -> str:
    use = _USES.get(preset.parent.name, _RUN)
    if preset == Path(name):
        return f"run it: {use.format(file=name)}"
    return f"run it: lit-distill preset {name} > {preset.name} && {use.format(file=preset.name)}"
