"""The doctor says what a preset does, finds what is wrong, and leaves nothing behind."""

import re
from pathlib import Path

import pytest
import torch

from lit_distill import presets
from lit_distill.cli import main
from lit_distill.cli.doctor import findings, likely_by_chance
from lit_distill.cli.examination import Examination
from lit_distill.cli.trainer import cli

KD = presets.find("kd_digits")
TEACHER = presets.find("teachers/resnet8_digits")


@pytest.fixture(scope="session")
def some_teacher(tmp_path_factory):
    """A teacher that has seen enough to be no longer at chance level."""
    folder = tmp_path_factory.mktemp("teacher")
    file = folder / "teacher.safetensors"
    config = ["--config", str(TEACHER), "--trainer.max_epochs=2", "--model.optimizer.lr=0.01"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PL_GLOBAL_SEED", "0")
        cli(["fit", *config, f"--student_file.path={file}"])
    return file


@pytest.fixture
def files(workshop):
    """What is in the working directory, and must be there afterwards."""
    before = sorted(workshop.rglob("*"))
    yield
    assert sorted(workshop.rglob("*")) == before


def test_a_preset_in_good_health(files, some_teacher, capsys):
    assert main(["doctor", "--config", str(KD), f"--model.teacher.path={some_teacher}"]) == 0
    said = capsys.readouterr().out
    for term in ("ce", "kd"):
        value, norm = r"[\d.e+-]+ to [\d.e+-]+", r"[\d.e+-]+ to [\d.e+-]+"
        assert re.search(rf"│ {term} +│ {value} +│ {norm} +│", said)
    milliseconds, share = re.search(r"Step: ([\d.]+) ms .* of which the teacher (\d+) %", said).groups()
    assert float(milliseconds) > 0
    assert 0 < int(share) < 100
    assert float(re.search(r"Peak memory: (\d+) MiB", said)[1]) > 0
    accuracy = float(re.search(r"Teacher's accuracy on 144 validation samples: ([\d.]+) %", said)[1])
    assert accuracy > 100 * likely_by_chance(10, 144)
    assert said.endswith("Nothing looks wrong.\n")


def test_an_untrained_teacher(files, capsys):
    assert main(["doctor", "--config", str(KD)]) == 1
    (wrong,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Looks wrong")]
    assert re.match(r"Looks wrong: the teacher is at chance level \([\d.]+ % of 10 classes\): are its weights", wrong)


def test_the_layers_of_features(files, some_teacher, capsys):
    student = ["--model.student=lit_distill.models.resnet8", "--model.student.in_channels=1"]
    fitnet = ["--model.losses.kd=FitNet", "--model.losses.kd.layers={layer2: layer2, 'layer3:input': layer2}"]
    code = main(["doctor", "--config", str(KD), f"--model.teacher.path={some_teacher}", *student, *fitnet])
    assert code in (0, 1)  # the terms need not be balanced
    said = capsys.readouterr().out
    for network, layer in (("student", "layer2"), ("student", "layer3:input"), ("teacher", "layer2")):
        assert re.search(rf"│ {network} +│ {layer} +│ \(64, 32, 4, 4\) +│", said), said


def test_a_run_without_a_teacher(files, capsys):
    assert main(["doctor", "--config", str(TEACHER)]) == 0
    said = capsys.readouterr().out
    assert "teacher" not in said.lower()
    assert "│ ce " in said


def test_the_callbacks_of_the_preset_stay(files, some_teacher, capsys):
    preset = presets.find("rld_digits")
    assert main(["doctor", "--config", str(preset), f"--model.teacher.path={some_teacher}"]) in (0, 1)
    assert "│ rld " in capsys.readouterr().out


def test_a_wrong_preset_is_one_line(files, capsys):
    assert main(["doctor", "--config", str(KD), "--model.losses.kd.temprature=8"]) == 2
    assert "did you mean temperature?" in capsys.readouterr().err


class FakeModule(torch.nn.Module):
    """What findings may ask of a module that is none of ours: nothing."""


def seen(**facts):
    examination = Examination()
    for name, value in facts.items():
        assert hasattr(examination, name)
        setattr(examination, name, value)
    return examination


def test_findings():
    nothing = findings(seen(norms={"ce": [1.0], "kd": [2.0]}, samples=144), FakeModule(), {"teacher_acc": 0.9}, 10)
    assert nothing == []
    (faint,) = findings(seen(norms={"ce": [1.0], "kd": [200.0]}), FakeModule(), {}, 10)
    assert "the gradient of kd is 200 times that of ce" in faint
    assert "--model.losses.kd.weight" in faint
    (idle,) = findings(seen(untrained=["losses.kd.scale"]), FakeModule(), {}, 10)
    assert idle.startswith("1 trainable parameters get no gradient (losses.kd.scale)")
    (raw,) = findings(seen(inputs=(120.0, 60.0)), FakeModule(), {}, 10)
    assert raw == "inputs have mean 120.00 and standard deviation 60.00: are they normalised?"
    # two classes: right in every other case is chance, in nine of ten it is not
    assert findings(seen(samples=300), FakeModule(), {"teacher_acc": 0.9}, 2) == []
    assert len(findings(seen(samples=300), FakeModule(), {"teacher_acc": 0.55}, 2)) == 1


def test_a_term_without_gradient(files, some_teacher, capsys):
    Path("mine.py").write_text(
        "from lit_distill import DistillLoss\n"
        "class Idle(DistillLoss):\n"
        "    def forward(self, student, teacher, target):\n"
        "        return (student.logits.detach() - teacher.logits).abs().mean()\n"
    )
    idle = ["--model.losses.idle=mine.Idle"]
    try:
        assert main(["doctor", "--config", str(KD), f"--model.teacher.path={some_teacher}", *idle]) == 1
    finally:
        Path("mine.py").unlink()
    assert "Looks wrong: the term idle has no gradient for the student" in capsys.readouterr().out
