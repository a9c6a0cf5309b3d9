"""Every preset runs, is short, and says how it is run."""

import math
import re
from inspect import isclass

import pytest
import torch
import yaml

import lit_distill.losses
from lit_distill import presets
from lit_distill.cli import main
from lit_distill.cli.trainer import cli
from lit_distill.data import FashionMNIST
from lit_distill.errors import InputError
from lit_distill.losses import CrossEntropy, DistillLoss, FeatureLoss, LogitLoss, RelationalLoss
from lit_distill.losses.modifiers.base import Modifier

EVERY = presets.all_presets()
RUNS = [preset for preset in EVERY if preset.parent.name not in presets.PARTS]
KD = str(presets.find("kd_digits"))


def settings(preset):
    return yaml.safe_load(preset.read_text(encoding="utf-8"))


def lines(preset):
    return [line for line in preset.read_text(encoding="utf-8").splitlines() if line.strip()]


def uses(preset):
    """The data of a preset: that which is cut into class batches, where it is."""
    data = settings(preset).get("data", {})
    return data.get("init_args", {}).get("data", data).get("class_path")


def listed(every):
    def marks(preset):
        return [pytest.mark.fashion_mnist] if uses(preset) == "FashionMNIST" else []

    return [pytest.param(preset, id=presets.full_name(preset), marks=marks(preset)) for preset in every]


def data_of(preset):
    """Small batches of the preset's own data."""
    if uses(preset) == "FashionMNIST":
        try:
            FashionMNIST().setup("test")
        except InputError as error:
            pytest.skip(str(error))
    return ["--data.per_class=2" if preset.parent.name == "dataset" else "--data.batch_size=8"]


@pytest.mark.parametrize("preset", listed(RUNS))
def test_one_step_of_every_run(workshop, preset):
    before = sorted(workshop.rglob("*"))
    done = cli(["fit", "--config", str(preset), "--trainer.fast_dev_run=1", *data_of(preset)])
    learns = preset.parent.name != "dataset" or "objective" in settings(preset)["model"]["init_args"]
    assert done.trainer.global_step == int(learns)
    logged = {name: float(value) for name, value in done.trainer.callback_metrics.items()}
    assert ({"train/loss"} if learns else set()) <= logged.keys()
    selects = settings(preset).get("checkpoint", {}).get("monitor", "val/acc")
    assert preset.parent.name == "dataset" or selects in logged
    terms = settings(preset)["model"]["init_args"].get("losses", {})
    assert {f"train/{name}" for name in terms} <= logged.keys()
    assert all(map(math.isfinite, logged.values())), logged
    assert all(torch.isfinite(p).all() for p in done.model.parameters())
    assert sorted(workshop.rglob("*")) == before


@pytest.mark.parametrize("preset", listed(EVERY))
def test_a_preset_is_short_and_says_how_to_run_it(preset):
    every = lines(preset)
    comments = [line for line in every if line.lstrip().startswith("#")]
    assert len(every) - len(comments) <= 25
    assert max(map(len, every)) <= 120
    assert every[0].startswith("# ")
    name = f"configs/{presets.full_name(preset)}.yaml"
    commands = {"sweeps": "wandb sweep", "stages": "lit-distill stages"}
    command = commands.get(preset.parent.name, "lit-distill fit .*--config")
    assert any(re.search(rf"{command} {re.escape(name)}", line) for line in comments), f"no command in {comments}"


@pytest.mark.parametrize("part", ["cpu", "gpu", "ddp", "fsdp2"])
def test_a_trainer_preset_changes_the_trainer_alone(workshop, capsys, part):
    def resolved(*more):
        with pytest.raises(SystemExit) as ended:
            main(["fit", "--config", str(presets.find("rld_digits")), *more, "--print_config"])
        assert ended.value.code == 0
        return yaml.safe_load(capsys.readouterr().out)

    preset = presets.find(f"trainer/{part}")
    without, changed = resolved(), resolved("--config", str(preset))
    for name, value in settings(preset)["trainer"].items():
        if name.endswith("+"):
            assert len(changed["trainer"][name[:-1]]) == len(without["trainer"][name[:-1]]) + len(value)
        else:
            assert changed["trainer"][name] == value
    assert {key for key in without if without[key] != changed[key]} <= {"trainer"}


def test_the_cpu_preset_runs(workshop):
    cpu = str(presets.find("trainer/cpu"))
    done = cli(["fit", "--config", KD, "--config", cpu, "--trainer.fast_dev_run=1"])
    assert done.trainer.precision == "bf16-mixed"
    assert done.trainer.global_step == 1


def test_every_loss_has_a_preset():
    bases = {DistillLoss, LogitLoss, FeatureLoss, RelationalLoss, CrossEntropy, Modifier}
    public = {name: getattr(lit_distill.losses, name) for name in lit_distill.losses.__all__}
    losses = {n for n, v in public.items() if isclass(v) and issubclass(v, DistillLoss) and v not in bases}
    used = presets.by_class(RUNS)
    assert losses
    assert sorted(name for name in losses if name.lower() not in used) == []
