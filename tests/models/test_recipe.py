"""A missing file is trained by exactly one process, and a failed training leaves nothing."""

import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors.torch import save_file

from lit_distill.errors import InputError
from lit_distill.models import MLP, recipe, restored, trained


@pytest.fixture
def preset(tmp_path):
    file = tmp_path / "teacher.yaml"
    file.write_text("seed_everything: 1\n")
    return str(file)


@pytest.fixture
def runs(monkeypatch):
    """What would have been run, and a fake run in its place."""
    calls = []

    def fake(command, env, check):
        calls.append((command, env))
        file = command[command.index("--student_file.path") + 1]
        save_file(MLP((4,), 3, ()).state_dict(), file)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(recipe.subprocess, "run", fake)
    return calls


def test_an_existing_file_needs_no_recipe(tmp_path, runs):
    file = tmp_path / "here.pt"
    file.touch()
    assert trained(file) == file
    assert trained(str(file), "no such recipe") == file
    assert runs == []


def test_a_missing_file_is_trained_once(tmp_path, preset, runs, capsys):
    file = tmp_path / "new" / "teacher.safetensors"
    model = restored(MLP((4,), 3, ()), str(file), preset)
    torch.manual_seed(0)
    again = restored(MLP((4,), 3, ()), str(file), preset)
    assert torch.equal(model.fc.weight, again.fc.weight)
    ((command, _),) = runs
    assert command[:6] == [sys.executable, "-m", "lit_distill", "fit", "--config", preset]
    assert command[6:8] == ["--student_file.path", str(file)]
    assert set(command[8:]) == {"--trainer.devices=1", "--trainer.strategy=auto", "--trainer.num_nodes=1"}
    assert capsys.readouterr().out == f"{file} is missing: training it from recipe {preset}\n"


def test_the_training_is_a_run_of_its_own(tmp_path, preset, runs, monkeypatch):
    foreign = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "GROUP_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR"]
    foreign += ["MASTER_PORT", "TORCHELASTIC_RUN_ID", "SLURM_NTASKS", "PL_GLOBAL_SEED", "WANDB_SWEEP_ID"]
    for name in foreign:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    trained(tmp_path / "t.safetensors", preset)
    ((_, environment),) = runs
    assert not set(foreign) & set(environment)
    assert environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert environment["PATH"] == os.environ["PATH"]


def test_a_recipe_that_needs_its_own_result_is_refused(tmp_path, preset, runs, monkeypatch):
    trained(tmp_path / "a.safetensors", preset)
    monkeypatch.setattr(recipe.os, "environ", runs[0][1])  # as inside that training
    trained(tmp_path / "b.safetensors", preset)
    monkeypatch.setattr(recipe.os, "environ", runs[1][1])
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors").unlink()
        with pytest.raises(InputError, match="the very file it should make"):
            trained(tmp_path / f"{name}.safetensors", preset)
    assert len(runs) == 2


@pytest.mark.parametrize(
    ("code", "writes"),
    [(0, []), (1, []), (1, ["t.safetensors", "t.json"])],
)
def test_a_failed_training_leaves_nothing(tmp_path, preset, monkeypatch, code, writes):
    def fail(command, env, check):
        for name in writes:
            (tmp_path / name).write_text("half")
        return subprocess.CompletedProcess(command, code)

    monkeypatch.setattr(recipe.subprocess, "run", fail)
    with pytest.raises(InputError, match=rf"exit code {code}\); to see why: .* -m lit_distill fit") as error:
        trained(tmp_path / "t.safetensors", preset)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "t.safetensors").exists()
    assert not (tmp_path / "t.json").exists()


def test_unknown_recipes_and_other_suffixes_are_refused(tmp_path, preset, runs):
    with pytest.raises(InputError, match="no-such-recipe"):
        trained(tmp_path / "t.safetensors", "no-such-recipe")
    with pytest.raises(InputError, match=r"ends in \.safetensors"):
        trained(tmp_path / "t.pth", preset)
    with pytest.raises(InputError, match="no recipe is given"):
        trained(tmp_path / "t.safetensors")
    assert runs == []


def test_of_two_processes_one_trains_and_the_other_waits(tmp_path, preset):
    file, log = tmp_path / "t.safetensors", tmp_path / "log"
    training = textwrap.dedent(f"""
        import os, pathlib, time
        with open({str(log)!r}, "a") as log:
            log.write("trained\\n")
        time.sleep(0.5)
        pathlib.Path({str(file)!r} + ".partial").write_text("weights")
        os.replace({str(file)!r} + ".partial", {str(file)!r})
    """)
    # Each process says that it is ready and waits for the other, so that they race.
    racer = textwrap.dedent(f"""
        import json, pathlib, sys, time
        from lit_distill.models import recipe
        recipe._command = lambda path, config: [sys.executable, "-c", {training!r}]
        folder = pathlib.Path({str(tmp_path)!r})
        (folder / f"ready{{sys.argv[1]}}").touch()
        while len(list(folder.glob("ready*"))) < 2:
            time.sleep(0.01)
        print(json.dumps(recipe.trained({str(file)!r}, {preset!r}).read_text()))
    """)
    racers = [
        subprocess.Popen([sys.executable, "-c", racer, str(i)], stdout=subprocess.PIPE, text=True) for i in range(2)
    ]
    outputs = [racer.communicate(timeout=120)[0].splitlines() for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0]
    assert [json.loads(lines[-1]) for lines in outputs] == ["weights", "weights"]
    assert log.read_text() == "trained\n"
    assert sum("is missing: training it" in line for lines in outputs for line in lines) == 1
