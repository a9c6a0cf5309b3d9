"""What a user gets wrong is one line on standard error that says what to mend, and exit code 2."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from lit_distill import presets
from lit_distill.cli import main
from lit_distill.cli.trainer import cli
from lit_distill.student_file import save_student

from ..untrained import built

KD = presets.find("kd_digits").read_text(encoding="utf-8")
SHORT = ["--trainer.max_epochs=1", *(f"--trainer.limit_{part}_batches=2" for part in ("train", "val", "test"))]


@pytest.fixture
def refused(workshop, capfd):
    """The one line that a command line prints when it refuses; it leaves no traceback and exits with 2."""

    def refuse(*arguments):
        assert main([str(a) for a in arguments]) == 2
        error = capfd.readouterr().err
        assert "Traceback" not in error
        (line,) = [line for line in error.splitlines() if "error" in line.lower()]
        assert line.startswith("lit-distill: error: ")
        return line.removeprefix("lit-distill: error: ")

    return refuse


def changed(old, new, file="my.yaml"):
    """A preset of the user's: KD on digits with one change."""
    assert KD.count(old) == 1
    Path(file).write_text(KD.replace(old, new), encoding="utf-8")
    return file


YAML = [
    ("temperature: 4.0", "temprature: 4.0", "model.losses: KD has no argument temprature; did you mean temperature?"),
    ("temperature: 4.0", "temperature: hot", "model.losses: KD takes a float as temperature, not 'hot'"),
    ("class_path: KD,", "class_path: KDD,", "model.losses: no class is called KDD; did you mean KD"),
    ("class_path: Distiller", "class_path: Distilller", "model: no class is called Distilller; did you mean Distiller"),
    ("class_path: Digits", "class_path: Digit", "data: no class is called Digit; did you mean Digits?"),
    ("data: {", "dta: {", "dta: there is no such setting; did you mean data?"),
    ("{max_epochs", "{max_epoch", "trainer.max_epoch: there is no such setting; did you mean trainer.max_epochs"),
    ("    optimizer:", "    optimiser:", "model: Distiller has no argument optimiser.lr; did you mean optimizer?"),
    ("optim.AdamW", "optim.AdamWW", "model.optimizer: torch.optim has no AdamWW; did you mean AdamW"),
    ("optim.AdamW", "optm.AdamW", "model.optimizer: torch has no optm; did you mean optim?"),
    ("lr: 3.0e-3", "lr: 3.0f-3", "model.optimizer: AdamW takes a float as lr, not '3.0f-3'"),
    ("hidden: [128]", "hidden: [a]", "model.student: MLP takes an int as hidden, not 'a'"),
    (
        "models.resnet8,",
        "models.resnett8,",
        "model.teacher.model: lit_distill.models has no resnett8; did you mean",
    ),
    ("KD, init_args: {weight: 0.9, temperature: 4.0}", "OFA", "model.losses: OFA needs stages"),
    (
        "KD, init_args: {weight: 0.9, temperature: 4.0}",
        "FitNet, init_args: {layers: {bocks.0: layer1}}",
        "layers: the student MLP has no submodule 'bocks.0'; close: blocks.0,",
    ),
    ("temperature: 4.0", "temperature: -1.0", "temperature must be positive"),
    ("input_shape: [1, 8, 8]", "input_shape: [1, 9, 8]", "input_shape is (1, 9, 8), but a sample has (1, 8, 8)"),
    ("{num_classes: 10,", "{num_classes: 12,", "the file holds a head for 10 classes (fc), the model has 12"),
    ("max_epochs: 60", "strategy: ddpp", "invalid strategy name: `strategy='ddpp'`"),
]


@pytest.mark.parametrize(("old", "new", "says"), YAML, ids=[new.strip() for _, new, _ in YAML])
def test_a_wrong_preset(refused, old, new, says):
    assert says in refused("fit", "--config", changed(old, new))


def test_a_teacher_that_cannot_be_made(refused):
    recipe = "        recipe: configs/teachers/resnet8_digits.yaml\n"
    Path("teachers/resnet8_digits.safetensors").unlink()
    file = changed(recipe, "")
    assert "teachers/resnet8_digits.safetensors does not exist, and no recipe is given" in refused(
        "fit", "--config", file
    )
    file = changed(recipe, recipe.replace("resnet8", "rsnet8"))
    says = refused("fit", "--config", file)
    assert "preset 'configs/teachers/rsnet8_digits.yaml'" in says
    assert "close to it: teachers/resnet8_digits" in says


FLAGS = [
    (
        "--model.losses.kd.temprature=8",
        "--model.losses.kd.temprature: KD has no argument temprature; did you",
    ),
    ("--model.losses.kd.temperature=hot", "--model.losses.kd.temperature: KD takes a float as temperature, not 'hot'"),
    ("--model.losses.kd=null", "--model.losses.kd: a class is needed here, not null"),
    (
        "--model.losses.xd.alpha=1",
        "--model.losses.xd.alpha: DistillLoss has no argument alpha; accepted are weight",
    ),
    ("--model.optimizer.lrr=1", "--model.optimizer.lrr: AdamW has no argument lrr; did you mean lr?"),
    ("--model=mine.Trusting", "model: No module named 'mine'"),
    ("--data.batch_size=0", "batch_size: 0 is below 1"),
    ("--trainer.max_epochs=1.5", "trainer.max_epochs: accepted is an int, not '1.5'"),
    ("--trainer.precision=17", "trainer.precision: accepted is 64 or 32 or 16 or"),
    ("--trainer.logger=WandbLoger", "trainer.logger: no class is called WandbLoger; did you mean WandbLogger?"),
    ("--modle=Distiller", "--modle: there is no such option; did you mean --model?"),
    ("extra.yaml", "extra.yaml: there is no such option; --config names a preset"),
    ("--ckpt_path=nothing.ckpt", "ckpt_path: nothing.ckpt does not exist; accepted is a path"),
    ("--ckpt_path=last", "ckpt_path: last does not exist; accepted is a path"),
]


@pytest.mark.parametrize(("flag", "says"), FLAGS, ids=[flag for flag, _ in FLAGS])
def test_a_wrong_flag(refused, flag, says):
    assert says in refused("fit", "--config", presets.find("kd_digits"), flag)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("data: {class_path: Digits\ntrainer: {}\n", "bad.yaml, line 2: no valid YAML (expected ',' or '}'"),
        ("data:\n\t- 1\n", "bad.yaml, line 2: no valid YAML (found character '\\t'"),
        ("hello\n", "bad.yaml: holds no settings"),
        ("", "bad.yaml: holds no settings"),
    ],
)
def test_a_file_that_is_no_preset(refused, content, says):
    Path("bad.yaml").write_text(content)
    assert says in refused("fit", "--config", presets.find("kd_digits"), "--config=bad.yaml")


def test_what_is_missing(refused):
    assert "nowhere.yaml does not exist; `lit-distill preset` lists" in refused("fit", "--config", "nowhere.yaml")
    assert refused("fit") == "--data, --model missing; --config names a preset"
    assert refused("fit", "--data=Digits", "--model=Supervised") == "model: Supervised needs student, optimizer"
    assert refused("fitt") == "fitt is no command; did you mean fit?"
    assert refused().startswith("nothing is no command; accepted first are fit, validate, test, predict, methods,")
    assert refused("--config", presets.find("kd_digits")).startswith("which command? Accepted first are fit,")


def test_a_damaged_teacher(refused):
    whole = Path("teachers/resnet8_digits.safetensors").read_bytes()
    Path("cut.safetensors").write_bytes(whole[: len(whole) // 2])
    file = changed("        path: teachers/resnet8_digits.safetensors", "        path: cut.safetensors")
    says = refused("fit", "--config", file)
    assert "cut.safetensors cannot be read, it may be damaged" in says


def test_a_teacher_of_other_classes(refused):
    teacher = {"class_path": "lit_distill.models.resnet8", "init_args": {"num_classes": 12, "in_channels": 1}}
    save_student(built(teacher), "twelve.safetensors", {})
    changed("teachers/resnet8_digits.safetensors", "twelve.safetensors")
    file = "my.yaml"
    assert "the file holds a head for 12 classes (fc), the model has 10" in refused("fit", "--config", file)
    says = refused("fit", "--config", file, "--model.teacher.model.num_classes=12", *SHORT)
    assert "student and teacher logits must be of one shape, got (64, 10) and (64, 12)" in says
    assert not list(Path("runs").rglob("*.ckpt"))


def test_a_damaged_checkpoint(refused):
    file = changed("max_epochs: 60", "max_epochs: 1")
    assert main(["fit", "--config", file, *SHORT]) == 0
    (last,) = Path("runs").rglob("last.ckpt")
    content = last.read_bytes()
    for size in (0, 100, len(content) // 2, len(content) - 1):
        Path("cut.ckpt").write_bytes(content[:size])
        for command in ("fit", "test"):
            says = refused(command, "--config", file, "--ckpt_path=cut.ckpt")
            assert says.startswith("ckpt_path: cut.ckpt is no readable checkpoint, or was cut short")


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


@pytest.mark.parametrize("command", ["fit", "test", "predict"])
def test_a_checkpoint_with_code_in_it(refused, command):
    torch.save({"state_dict": {}, "hyper_parameters": Bomb()}, "bomb.ckpt")
    says = refused(command, "--config", presets.find("kd_digits"), "--ckpt_path=bomb.ckpt")
    assert says.startswith("ckpt_path: bomb.ckpt is no checkpoint, or holds more than tensors and plain values")
    assert not Path("exploded").exists()


def test_a_corrupt_image(refused):
    rng = np.random.default_rng(0)
    for part, count in (("train", 6), ("val", 2)):
        for name in ("cat", "dog"):
            folder = Path("pictures", part, name)
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    settings = {
        "model": {
            "class_path": "Supervised",
            "init_args": {
                "student": {"class_path": "lit_distill.models.resnet8", "init_args": {"num_classes": 2}},
                "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
            },
        },
        "data": {
            "class_path": "ImageFolder",
            "init_args": {"root": "pictures", "image_size": 8, "batch_size": 4, "val_fraction": 0.2},
        },
    }
    Path("pictures.yaml").write_text(yaml.safe_dump(settings))
    assert main(["fit", "--config", "pictures.yaml", "--trainer.max_epochs=1"]) == 0
    (last,) = Path("runs").rglob("last.ckpt")
    before = last.read_bytes()
    for broken in Path("pictures/train").rglob("*.png"):
        broken.write_bytes(broken.read_bytes()[:60])
    says = refused("fit", "--config", "pictures.yaml", "--trainer.max_epochs=2", f"--ckpt_path={last}")
    assert says.startswith("root: pictures/train/")
    assert ".png cannot be read as an image" in says
    assert last.read_bytes() == before


def test_a_loss_that_is_no_number(refused):
    """The weights of the step before are safe on disk."""
    file = changed("lr: 3.0e-3", "lr: 1.0e+9")
    says = refused("fit", "--config", file, "--checkpoint.every_n_train_steps=1", "--checkpoint.monitor=null")
    assert "train/loss is nan at step" in says
    assert "ce nan" in says
    (last,) = Path("runs").rglob("last.ckpt")
    saved = torch.load(last, weights_only=True)
    assert saved["global_step"] >= 1
    assert all(torch.isfinite(value).all() for value in saved["state_dict"].values())
    assert not list(Path("runs").rglob("student.safetensors"))


def test_the_traceback_is_there_for_who_asks(workshop, capfd, monkeypatch):
    monkeypatch.setenv("LIT_DISTILL_DEBUG", "1")
    assert main(["fit", "--config", changed("temperature: 4.0", "temperature: hot")]) == 2
    error = capfd.readouterr().err
    assert "Traceback" in error
    assert error.splitlines()[-1] == ("lit-distill: error: model.losses: KD takes a float as temperature, not 'hot'")


def test_the_exit_code_of_the_process(workshop):
    command = [sys.executable, "-m", "lit_distill", "fit", "--config", changed("temperature: 4.0", "temperature: hot")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "lit-distill: error: model.losses: KD takes a float as temperature, not 'hot'\n"


def test_flags_win_over_the_checkpoint(workshop):
    file = changed("max_epochs: 60", "max_epochs: 1")
    first = cli(["fit", "--config", file, *SHORT])
    assert first.model.losses["kd"].temperature == 4.0
    last = "runs/my/version_0/checkpoints/last.ckpt"
    flags = ["--model.losses.kd.temperature=8", "--trainer.max_epochs=2"]
    second = cli(["fit", "--config", file, *SHORT, *flags, f"--ckpt_path={last}"])
    assert second.model.losses["kd"].temperature == 8.0
    assert second.trainer.global_step == 4  # it went on, and did not begin anew
    flags = ["--model.optimizer.weight_decay=0.7", "--model.optimizer.lr=0.006", "--trainer.max_epochs=2"]
    other = cli(["fit", "--config", file, *SHORT, *flags, f"--ckpt_path={last}"])
    saved = torch.load("runs/my/version_2/checkpoints/last.ckpt", weights_only=True)
    (group,) = saved["optimizer_states"][0]["param_groups"]
    assert other.trainer.global_step == 4
    assert (group["weight_decay"], group["initial_lr"]) == (0.7, 0.006)
    assert saved["lr_schedulers"][0]["base_lrs"] == [0.006]
    saved = yaml.safe_load(Path("runs/my/version_1/config.yaml").read_text())
    assert saved["model"]["init_args"]["losses"]["kd"]["init_args"]["temperature"] == 8.0
    third = cli(["test", "--config", file, "--trainer.limit_test_batches=1", f"--ckpt_path={last}"])
    assert third.model.losses["kd"].temperature == 4.0  # the config's, whatever the checkpoint remembers


def optimizer_of(capsys, *arguments):
    with pytest.raises(SystemExit):
        main(["fit", *arguments, "--print_config"])
    return yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["optimizer"]


def test_one_optimizer_does_not_leak_into_another(workshop, capsys):
    """A default of AdamW is no setting of the user's SGD; what the preset says itself stays where both take it."""
    written = "optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 3.0e-3, weight_decay: 1.0e-2}}"
    adam = changed(written, "optimizer: {class_path: AdamW, init_args: {lr: 0.25}}", "adam.yaml")
    sgd = {"model": {"init_args": {"optimizer": {"class_path": "SGD", "init_args": {"momentum": 0.5}}}}}
    Path("sgd.yaml").write_text(yaml.safe_dump(sgd))
    ways = [["--config", "sgd.yaml"], ["--model.optimizer=SGD", "--model.optimizer.momentum=0.5"]]
    for way in ways:
        found = optimizer_of(capsys, "--config", adam, *way)
        assert found["class_path"] == "torch.optim.SGD"
        assert found["init_args"] | {"lr": 0.25, "momentum": 0.5, "weight_decay": 0.0} == found["init_args"]
    alone = changed(written, "optimizer: {class_path: SGD, init_args: {lr: 0.25}}")
    assert optimizer_of(capsys, "--config", alone)["init_args"]["weight_decay"] == 0.0


def test_a_class_that_is_known_needs_no_path(workshop, capsys):
    Path("bare.yaml").write_text(KD.replace("torch.optim.AdamW", "AdamW").replace("torch.optim.lr_scheduler.", ""))
    with pytest.raises(SystemExit):
        main(["fit", "--config", "bare.yaml", "--model=LogitDistiller", "--print_config"])
    found = yaml.safe_load(capsys.readouterr().out)
    assert found["model"]["class_path"] == "lit_distill.LogitDistiller"
    assert found["model"]["init_args"]["losses"]["kd"]["class_path"] == "lit_distill.KD"
    assert found["model"]["init_args"]["teacher"]["init_args"]["path"] == "teachers/resnet8_digits.safetensors"
    assert found["model"]["init_args"]["optimizer"]["class_path"] == "torch.optim.AdamW"
    assert found["data"]["class_path"] == "lit_distill.data.Digits"


def test_a_terminal_without_unicode(workshop):
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "lit_distill", "methods"]
    done = subprocess.run(command, capture_output=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr
