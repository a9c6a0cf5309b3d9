"""What the README shows works as it stands there."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lit_distill import presets
from lit_distill.cli import COMMANDS, TOOLS, main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
#: Marker (if there is one), language and content of every block of code.
BLOCKS = re.findall(r"(?:<!-- ([\w: .]+) -->\n)?```(\w*)\n(.*?)```\n", README, re.S)
SCRIPTS = [content for marker, language, content in BLOCKS if marker == "test"]
SHELL = "\n".join(content for _, language, content in BLOCKS if language == "bash").replace("\\\n", " ")
ONE_STEP = ["--trainer.max_epochs=1", *(f"--trainer.limit_{part}_batches=1" for part in ("train", "val", "test"))]


def commands():
    """The arguments of every ``lit-distill ...`` of the README, also where another program starts it."""
    for line in SHELL.splitlines():
        words = shlex.split(line, comments=True)
        for i, word in enumerate(words):
            if word in ("lit-distill", "lit_distill"):
                rest = words[i + 1 :]
                ends = [rest.index(end) for end in ("&&", ">") if end in rest]
                yield rest[: min(ends, default=None)]


def test_python_needs_a_marker():
    assert len(SCRIPTS) >= 2
    assert all(marker.startswith("test") for marker, language, _ in BLOCKS if language == "python")


@pytest.mark.parametrize("script", SCRIPTS, ids=range(len(SCRIPTS)))
def test_a_script_runs(workshop, script):
    exec(compile(script, "README.md", "exec"), {"__name__": "__main__"})


def test_a_module_of_the_user_runs_from_the_command_line(workshop):
    places = [i for i, (marker, _, _) in enumerate(BLOCKS) if marker == "test: mine.py"]
    (place,) = places
    Path("mine.py").write_text(BLOCKS[place][2], encoding="utf-8")
    Path("my.yaml").write_bytes(presets.find("kd").read_bytes())
    lines = BLOCKS[place + 1][2].splitlines()
    assert len(lines) == 2
    script = Path(sys.executable).parent / "lit-distill"  # whose folder comes first on its path, and not this one
    for line in lines:
        name, *arguments = shlex.split(line)
        assert name == "lit-distill"
        done = subprocess.run([script, *arguments, *ONE_STEP], capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr
    first, second = (yaml.safe_load(Path(f"runs/my/version_{i}/config.yaml").read_text())["model"] for i in range(2))
    assert first["class_path"] == "mine.Trusting"
    assert first["init_args"]["gamma"] == 3.0
    assert second["init_args"]["losses"]["l1"] == {
        "class_path": "mine.L1",
        "init_args": {"weight": 0.5, "layers": None, "teacher": None},
    }
    assert set(first["init_args"]["losses"]) == {"ce", "kd"}
    assert set(second["init_args"]["losses"]) == {"ce", "kd", "l1"}


def test_what_a_new_machine_runs_is_what_the_readme_says():
    shown = [content for marker, _, content in BLOCKS if marker == "ci"]
    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    (expression,) = re.findall(r"^sed -n '(.*)' README\.md >", run, re.M)
    taken = subprocess.run(["sed", "-n", expression, "README.md"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert taken.stdout == "".join(shown)
    assert "pytest" in taken.stdout
    assert "lit-distill fit" in taken.stdout
    assert "pip install" in taken.stdout
    assert "pip install" not in run  # nothing that the README does not say


@pytest.mark.parametrize("arguments", [pytest.param(a, id=" ".join(a)[:60]) for a in commands()])
def test_a_command_is_understood(workshop, capsys, arguments):
    assert arguments[0] in COMMANDS
    Path("configs").symlink_to(presets.folder())
    Path("my.yaml").write_bytes(presets.find("kd").read_bytes())
    (workshop / "mine.py").write_text(next(content for marker, _, content in BLOCKS if marker == "test: mine.py"))
    if arguments[0] in TOOLS:
        if arguments[0] in ("methods", "preset"):
            assert main(arguments) == 0
        return
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--print_config"])
    assert ended.value.code == 0
    said = yaml.safe_load(capsys.readouterr().out)
    flags = dict(a.removeprefix("--").split("=", 1) for a in arguments if "=" in a)
    for path, value in flags.items():
        found = said
        for part in path.split("."):
            found = found if part in found else found["init_args"]
            found = found[part]
        found = found["class_path"] if isinstance(found, dict) else found
        assert str(found).removesuffix(".0") == value


def test_what_it_points_to_exists():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target
    for path in re.findall(r"configs/[\w/]+\.yaml", README):
        assert (ROOT / path).is_file(), path
    for family, names in re.findall(r"configs/(\w+)/\{([\w,]+)\}\.yaml", README):
        for name in names.split(","):
            assert (ROOT / "configs" / family / f"{name}.yaml").is_file(), name
    for name in re.findall(r"^  ([\w/]+(?:\.py)?) ", README, re.M):
        assert (ROOT / "lit_distill" / name).exists(), name
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
