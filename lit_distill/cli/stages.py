"""``lit-distill stages``: several runs from one file, each of which starts from what those before it made."""

import argparse
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lit_distill.errors import InputError
from lit_distill.presets import find

KEYS = {"preset", "set"}
MENTION = re.compile(r"\{(\w+)\}")


@dataclass
class Stage:
    """One run of the file.

    Args:
        name: Its name in the file.
        preset: The preset that it runs.
        flags: What it changes of the preset: flag of ``lit-distill fit`` to value, with ``{stage}`` where the student
            of an earlier stage is meant.
        folder: Where its files go.
        seed: Seed of its run: one more than that of the stage before, so that a network and the next of its kind do not
            start alike.
        earlier: The stages before it by name.
    """

    name: str
    preset: Path
    flags: dict[str, Any]
    folder: Path
    seed: int
    earlier: dict[str, "Stage"]

    @property
    def student(self) -> Path:
        """The weights that this stage makes."""
        return self.folder / "student.safetensors"

    @property
    def stamp(self) -> Path:
        """Tells what made :attr:`student`."""
        return self.folder / "stage.json"

    def fingerprint(self, extra: list[str]) -> str:
        """Of all that this stage's result depends on, the stages it mentions included; files may move."""
        settings = yaml.safe_load(self.preset.read_text(encoding="utf-8"))
        names = sorted(set(MENTION.findall(json.dumps(self.flags))))
        before = [self.earlier[name].fingerprint(extra) for name in names]
        text = json.dumps([settings, self.flags, self.seed, extra, before], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def is_current(self, extra: list[str]) -> bool:
        """Whether its student is there and was made by these very settings."""
        if not (self.student.exists() and self.stamp.exists()):
            return False
        return bool(json.loads(self.stamp.read_text(encoding="utf-8"))["fingerprint"] == self.fingerprint(extra))

    def root(self, extra: list[str]) -> Path:
        """Where the runs with these settings keep their checkpoints."""
        return self.folder / self.fingerprint(extra)[:8]

    def interrupted(self, extra: list[str]) -> Path | None:
        """The last checkpoint of a run with these settings that did not finish."""
        saved = self.root(extra).rglob("checkpoints/last.ckpt")
        return max(saved, key=lambda file: file.stat().st_mtime, default=None)

    def arguments(self, extra: list[str]) -> list[str]:
        """What follows ``lit-distill`` to run this stage."""
        text = json.dumps(self.flags)
        flags = json.loads(MENTION.sub(lambda found: json.dumps(str(self.earlier[found[1]].student))[1:-1], text))
        own = [f"--seed_everything={self.seed}"]
        own += [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in flags.items()]
        places = [f"--trainer.default_root_dir={self.root(extra)}", f"--student_file.path={self.student}"]
        checkpoint = self.interrupted(extra)
        resume = [] if checkpoint is None else [f"--ckpt_path={checkpoint}"]
        return ["fit", "--config", str(self.preset), *own, *extra, *places, *resume]


def read(file: Path, out: Path, seed: int = 0) -> list[Stage]:
    """The stages of a file, in order.

    Args:
        file: A YAML file with ``stages: {name: {preset: ..., set: {flag: value}}}``.
        out: Where their folders go.
        seed: Of the first stage.

    Raises:
        InputError: When the file has another form, or a stage names a preset or a stage that is not there.
    """
    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise InputError(f"{file} is no YAML: {' '.join(str(error).split())}") from error
    wanted = settings.get("stages") if isinstance(settings, dict) and set(settings) == {"stages"} else None
    if not isinstance(wanted, dict) or not wanted:
        raise InputError(f"{file}: accepted is one key, stages, with {{name: {{preset: ..., set: {{flag: value}}}}}}")
    stages: dict[str, Stage] = {}
    for name, stage in wanted.items():
        if not re.fullmatch(r"\w+", str(name)):
            raise InputError(f"stages: {name!r} is no name of a stage; accepted are letters, digits and _")
        if not isinstance(stage, dict) or "preset" not in stage or set(stage) - KEYS:
            raise InputError(f"stages.{name}: {stage!r} given; accepted are the keys preset and set")
        flags = stage.get("set") or {}
        if not isinstance(flags, dict):
            raise InputError(f"stages.{name}.set: {flags!r} given; accepted is {{flag of lit-distill fit: value}}")
        for mentioned in MENTION.findall(json.dumps(flags)):
            if mentioned not in stages:
                known = ", ".join(stages) or "none"
                raise InputError(f"stages.{name}.set: {{{mentioned}}} is no stage before it; those are {known}")
        preset = find(str(stage["preset"]))
        stages[str(name)] = Stage(str(name), preset, flags, out / str(name), seed + len(stages), dict(stages))
    return list(stages.values())


def run(args: list[str]) -> int:
    """Run ``lit-distill stages`` with these arguments.

    Args:
        args: What follows ``stages`` on the command line.

    Returns:
        The exit status, 0.

    Raises:
        InputError: When the file or a stage's settings cannot be used, or a stage fails.
    """
    parser = argparse.ArgumentParser(
        prog="lit-distill stages",
        description="Run several presets from one file, each of which may start from what those before it made. A "
        "stage whose student is there and was made by the same settings is skipped, an interrupted one goes on.",
        epilog="All other flags are handed to every stage, e.g. --trainer.max_epochs=100 or --trainer.devices=2.",
    )
    parser.add_argument("file", help="e.g. configs/stages/takd_digits.yaml, or takd_digits")
    parser.add_argument("--out", help="folder of the results; default: runs/NAME OF THE FILE")
    parser.add_argument("--seed", type=int, default=0, help="of the first stage; each has one more than that before it")
    parser.add_argument("--plan", action="store_true", help="only say what would be run")
    options, extra = parser.parse_known_args(args)
    file = find(options.file)
    stages = read(file, Path(options.out or Path("runs", file.stem)), options.seed)
    for stage in stages:
        _check(stage, extra)  # all of them before the first one costs an hour
    done = {}
    for number, stage in enumerate(stages, 1):
        title = f"stage {number} of {len(stages)}, {stage.name}"
        if stage.is_current(extra):
            done[stage.name] = "was current"
            print(f"{title}: current, skipped", flush=True)
            continue
        done[stage.name] = "trained" if stage.interrupted(extra) is None else "resumed"
        command = stage.arguments(extra)
        print(f"{title}: lit-distill {shlex.join(command)}", flush=True)
        if not options.plan:
            _train(stage, command, extra)
    if not options.plan:
        _report(stages, done)
    return 0


def _check(stage: Stage, extra: list[str]) -> None:
    """Parse a stage's settings, so that a typo in the last one is known before the first one runs."""
    from lit_distill.cli.trainer import DistillCLI, cli, short_errors  # imports torch, which --help does not need

    class Parsed(DistillCLI):
        """Reads the settings and builds nothing."""

        def before_instantiate_classes(self) -> None:
            """Leave files alone."""

        def instantiate_classes(self) -> None:
            """Build nothing."""

        # Lightning's own steps after parsing: nothing is seeded and nothing runs.
        def _set_seed(self) -> None:
            pass

        def _run_subcommand(self, subcommand: str) -> None:
            pass

    try:
        with short_errors():
            cli([a for a in stage.arguments(extra) if not a.startswith("--ckpt_path=")], Parsed)
    except InputError as error:
        raise InputError(f"stages.{stage.name}: {error}") from error


def _train(stage: Stage, command: list[str], extra: list[str]) -> None:
    from lit_distill.student_file import write_whole

    stage.folder.mkdir(parents=True, exist_ok=True)
    code = subprocess.run([sys.executable, "-m", "lit_distill", *command], env=os.environ, check=False).returncode
    if code or not stage.student.exists():
        raise InputError(f"stages.{stage.name}: its run ended with exit code {code}; call this again to go on from it")
    text = json.dumps({"fingerprint": stage.fingerprint(extra), "command": command}, indent=2)
    write_whole(stage.stamp, lambda partial: partial.write_text(text, encoding="utf-8"))


def _report(stages: list[Stage], done: dict[str, str]) -> None:
    from rich.console import Console
    from rich.table import Table

    from lit_distill.report import percent
    from lit_distill.student_file import load_card

    table = Table(title="Test accuracy by stage", title_justify="left")
    for column in ("stage", "last", "selected", "", "student"):
        table.add_column(column, overflow="fold")
    for stage in stages:
        results = load_card(stage.student).get("results", {})
        accuracies = [percent(results.get(which, {}).get("acc")) for which in ("last", "selected")]
        table.add_row(stage.name, *accuracies, done[stage.name], str(stage.student))
    Console().print(table)
