"""Every sweep runs as the agent of Weights & Biases would run it."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from lit_distill import presets

SWEEPS = [preset for preset in presets.all_presets() if preset.parent.name == "sweeps"]
ONE_STEP = ["--trainer.max_epochs=1", *(f"--trainer.limit_{part}_batches=1" for part in ("train", "val", "test"))]


def sampled(parameter):
    """One of the values that a parameter of a sweep may take."""
    if "value" in parameter:
        return parameter["value"]
    if "values" in parameter:
        return parameter["values"][-1]
    low, high = parameter["min"], parameter["max"]
    if parameter.get("distribution", "").startswith("log_uniform_values"):
        return math.sqrt(low * high)
    return (low + high) // 2 if isinstance(low, int) and isinstance(high, int) else (low + high) / 2


def expanded(sweep, values):
    """The command as ``wandb.wandb_agent`` expands it."""
    macros = create_sweep_command_args({"args": {name: {"value": value} for name, value in values.items()}})
    macros |= {"env": ["/usr/bin/env"], "program": [sweep["program"]], "interpreter": ["python"]}
    words = []
    for chunk in create_sweep_command(list(sweep["command"])):
        words += macros[chunk[2:-1]] if chunk.startswith("${") else [chunk]
    return words


def looked_up(config, path):
    """The value at a flat dotted key of the resolved config."""
    for part in path.split("."):
        config = config if part in config else config["init_args"]
        config = config[part]
    return config


@pytest.mark.parametrize("preset", [pytest.param(p, id=p.stem) for p in SWEEPS])
def test_the_agent_runs_it(workshop, preset):
    sweep = yaml.safe_load(preset.read_text(encoding="utf-8"))
    values = {name: sampled(parameter) for name, parameter in sweep["parameters"].items()}
    Path("configs").symlink_to(presets.folder())  # sweeps are for users of the repository, in its folder
    chosen = workshop / "sweep-parameters.yaml"  # what the agent leaves for wandb.init
    chosen.write_text(yaml.safe_dump({name: {"value": value} for name, value in values.items()}))
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "WANDB_MODE": "offline",
        "WANDB_RUN_ID": "abcdefgh",
        "WANDB_SWEEP_ID": "12345678",
        "WANDB_SWEEP_PARAM_PATH": str(chosen),
    }
    done = subprocess.run(
        [*expanded(sweep, values), *ONE_STEP], env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (card,) = workshop.glob("runs/**/student.json")
    assert json.loads(card.read_text())["global_step"] == 1
    assert sweep["metric"]["name"] in json.loads(card.read_text())["metrics"]
    config = yaml.safe_load((card.parent / "config.yaml").read_text())
    assert {name: looked_up(config, name) for name in values} == pytest.approx(values, rel=1e-12)
    assert card.parent.name == "abcdefgh"  # the run that the agent asked for
    assert list(workshop.glob("runs/wandb/offline-run-*/run-abcdefgh.wandb"))
