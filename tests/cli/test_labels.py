"""``lit-distill labels`` stores what a preset's teacher says, and a fit finds it."""

import re

import pytest

from lit_distill import presets
from lit_distill.cli import main
from lit_distill.store import SoftLabels

KD, FKD = str(presets.find("kd_digits")), str(presets.find("fkd_digits"))
SMALL = ["--data.limit=40", "--data.batch_size=16"]


def test_the_labels_of_a_preset_that_has_none(workshop, capsys):
    before = set(workshop.rglob("*"))
    assert main(["labels", "--config", KD, "--views", "3", "--topk", "4", "--out", "here/labels", *SMALL]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"3 views of 40 images, the 4 likeliest of 10 classes \(0.0 MB\): here/labels", last)
    card = SoftLabels("here/labels").card
    assert (card["views"], card["topk"], card["dtype"]) == (3, 4, "float16")
    assert {path.relative_to(workshop).parts[0] for path in set(workshop.rglob("*")) - before} == {"here"}


def test_a_preset_that_trains_from_labels_names_them(workshop, capsys):
    assert main(["labels", "--config", FKD, *SMALL, "--dtype=float32"]) == 0
    folder = "teachers/resnet8_digits_labels"
    assert capsys.readouterr().out.endswith(f": {folder}\n")
    card = SoftLabels(folder).card
    assert (card["views"], card["topk"], card["dtype"]) == (4, 5, "float32")
    short = ["--trainer.max_epochs=1", "--baseline.path=null", "--trainer.logger=false"]
    assert main(["fit", "--config", FKD, "--model.teacher=null", *SMALL, *short]) == 0
    assert "asking the teacher" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", KD, "--views=2"], "out: not given, and the preset names no model.labels; give --out FOLDER"),
        (["--config", KD, "--out=x", "--views=2", "--topk=11"], "topk must be from 1 to the number of classes, 10"),
        (["--config", KD, "--out=x", "--views=0"], "views: 0 is below 1"),
        (["--config", KD, "--out=x", "--data.augment=true"], "data.views: not given"),
        (["--config", FKD, "--model.teacher=null"], "model: StoredDistiller has no teacher to ask"),
        (["--config", str(presets.find("teachers/mlp_digits")), "--out=x"], "model: Supervised has no teacher to ask"),
    ],
)
def test_errors_are_one_line(workshop, capsys, arguments, message):
    before = sorted(workshop.rglob("*"))
    assert main(["labels", *arguments]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lit-distill: error: ")]
    assert message in line
    assert sorted(workshop.rglob("*")) == before
