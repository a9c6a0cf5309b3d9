"""Several runs from one file: in order, skipped when current, resumed when interrupted."""

import json

import pytest
import yaml

from lit_distill import presets
from lit_distill.cli import main
from lit_distill.student_file import load_card

STAGES = [preset for preset in presets.all_presets() if preset.parent.name == "stages"]

FILE = """
stages:
  big:
    preset: configs/teachers/mlp_digits.yaml
    set: {trainer.max_epochs: 1}
  small:
    preset: configs/logit/kd_digits.yaml
    set:
      model.student.hidden: [16]
      model.teacher.model: {class_path: lit_distill.models.MLP, init_args: {input_shape: [1, 8, 8], hidden: [128]}}
      model.teacher.path: "{big}"
      baseline.path: null
      trainer.max_epochs: 2
"""

# A run that dies once, at the end of its second epoch
DYING = """
from pathlib import Path
from lightning.pytorch import Callback

class DieOnce(Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1 and not Path("died").exists():
            Path("died").touch()
            raise SystemExit(3)
"""


def stages(*flags):
    return main(["stages", "two.yaml", "--out", "out", "--trainer.limit_train_batches=2", "--images.count=0", *flags])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.yaml").write_text(FILE)
    return tmp_path


def change(old, new):
    with open("two.yaml") as file:
        text = file.read()
    assert old in text
    with open("two.yaml", "w") as file:
        file.write(text.replace(old, new))


def test_each_stage_once_and_again_only_what_changed(folder, capfd):
    assert stages() == 0
    big, small = folder / "out/big/student.safetensors", folder / "out/small/student.safetensors"
    config = load_card(small)["config"]
    assert config["teacher"]["init_args"]["path"] == "out/big/student.safetensors"
    assert config["student"]["init_args"]["hidden"] == [16]
    seeds = [
        yaml.safe_load(next(file.parent.rglob("config.yaml")).read_text())["seed_everything"] for file in (big, small)
    ]
    assert seeds == [0, 1]
    printed = capfd.readouterr().out
    assert "Test accuracy by stage" in printed
    assert f"{100 * load_card(small)['results']['last']['acc']:.2f} %" in printed
    before = [file.stat().st_mtime_ns for file in (big, small)]

    assert stages() == 0
    assert capfd.readouterr().out.count("current, skipped") == 2
    assert [file.stat().st_mtime_ns for file in (big, small)] == before

    change("hidden: [16]", "hidden: [8]")
    assert stages() == 0
    assert capfd.readouterr().out.count("current, skipped") == 1
    assert big.stat().st_mtime_ns == before[0]
    assert small.stat().st_mtime_ns > before[1]

    change("max_epochs: 1", "max_epochs: 2")  # what the first stage makes changes, so the second is outdated too
    assert stages("--plan") == 0
    assert "skipped" not in capfd.readouterr().out


def test_an_interrupted_stage_goes_on(folder, capfd, monkeypatch):
    (folder / "dying.py").write_text(DYING)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    change("trainer.max_epochs: 2", "trainer.max_epochs: 2\n      trainer.callbacks: [{class_path: dying.DieOnce}]")
    assert stages() == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert "stages.small: its run ended with exit code 3; call this again" in error
    assert not (folder / "out/small/stage.json").exists()

    assert stages() == 0
    printed = capfd.readouterr().out
    assert printed.count("current, skipped") == 1
    assert "--ckpt_path=" in printed
    assert "resumed" in printed
    assert load_card(folder / "out/small/student.safetensors")["epoch"] == 2
    assert json.loads((folder / "out/small/stage.json").read_text())["fingerprint"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{big}", "{bigg}", "stages.small.set: {bigg} is no stage before it; those are big"),
        ("kd_digits", "kd_digit", "preset 'configs/logit/kd_digit.yaml': no file, preset or method"),
        ("model.student.hidden", "model.student.hiden", "stages.small: "),
        ("    preset: configs/teachers/mlp_digits.yaml\n", "", "stages.big: {'set': {'trainer.max_epochs': 1}} given"),
        ("  big:", "  big one:", "stages: 'big one' is no name of a stage"),
        ("stages:", "stage:", "two.yaml: accepted is one key, stages"),
        ("set: {trainer.max_epochs: 1}", "set: [1]", "stages.big.set: [1] given"),
    ],
)
def test_mistakes_are_one_line_before_anything_runs(folder, capfd, old, new, message):
    change(old, new)
    assert stages() == 2
    printed = capfd.readouterr()
    (line,) = printed.err.strip().splitlines()
    assert message in line
    assert not (folder / "out").exists()


@pytest.mark.parametrize("file", STAGES, ids=[file.stem for file in STAGES])
def test_every_file_can_be_run(file, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert main(["stages", str(file), "--plan"]) == 0
    assert capfd.readouterr().out.count("lit-distill fit") == len(yaml.safe_load(file.read_text())["stages"])
    assert not list(tmp_path.iterdir())


def test_the_hint_stage_has_no_other_term(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fast = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--images.count=0"]
    teacher = "--model.teacher.recipe=null"
    from lit_distill.models import resnet8
    from lit_distill.student_file import save_student

    save_student(resnet8(10, 1), "teachers/resnet8_digits.safetensors", {})
    assert main(["stages", "stages/fitnet_stages_digits", "--out", "out", teacher, "--baseline.path=null", *fast]) == 0
    assert load_card("out/hint/student.safetensors")["config"]["losses"].keys() == {"hint"}
    assert load_card("out/student/student.safetensors")["config"]["losses"].keys() == {"ce", "kd"}
