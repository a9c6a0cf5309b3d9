"""``lit-distill evaluate`` trains networks on a set and on its controls, and writes what came out beside the set."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from lit_distill import presets
from lit_distill.cli import main
from lit_distill.cli.evaluate import changed, data_of, width_of
from lit_distill.data import ClassBatches, Digits
from lit_distill.dataset.artifact import save_distilled
from lit_distill.dataset.recipe import recipe_of
from lit_distill.dataset.step import Labelled
from lit_distill.errors import InputError

SHORT = ["--set", "epochs=3", "--networks", "2", "--device", "cpu"]


def saved(folder, seed=0, images_per_class=1, **about):
    data = ClassBatches(Digits())
    data.setup("fit")
    images = torch.stack([data.images_of(c)[seed : seed + images_per_class] for c in range(10)])
    labelled = Labelled(images, torch.arange(10)[:, None].expand(-1, images_per_class))
    about = {"data": "Digits", "method": "Anything"} | about
    return save_distilled(folder, labelled, 10, Digits.mean, Digits.std, recipe="dc", about=about)


def test_the_report_lies_beside_the_set(workshop, capsys):
    folders = [str(saved(workshop / name, seed)) for seed, name in enumerate(("one", "two"))]
    arguments = [*folders, "--models=convnet,mlp", "--width=4", "--teacher=teachers/mlp_digits_earlier", *SHORT]
    assert main(["evaluate", *arguments]) == 0
    captured = capsys.readouterr()
    assert "distilled" in captured.out
    assert captured.out.splitlines()[-1] == f"Report: {folders[0]}/report.json, with report.md and report.png"
    reports = [json.loads(Path(folder, "report.json").read_text()) for folder in folders]
    assert reports[0] == reports[1]
    report = reports[0]
    assert report["recipe"] == {"name": "dc", **vars(changed(recipe_of("dc"), ["epochs=3"]))}
    assert (report["split"], report["networks"], report["width"], report["data"]) == ("test", 2, 4, "Digits")
    card = json.loads(Path(folders[0], "card.json").read_text())
    assert report["sets"][folders[0]] == card["files"]["distilled.safetensors"]
    trials = [(row["model"], row["set"], row["labels"]) for row in report["rows"]]
    sets = [(name, labels) for name in ("distilled", "random", "herding") for labels in ("hard", "teacher")]
    assert trials == [(model, *trial) for model in ("convnet", "mlp") for trial in sets]
    assert [len(row["accuracies"]) for row in report["rows"][:3]] == [2, 2, 1]
    title, _, head, *_ = Path(folders[0], "report.md").read_text().splitlines()
    assert (
        title
        == "Anything on Digits, 1 a class: test accuracy in percent; recipe dc, 2 networks each, convnet of width 4"
    )
    assert head == "| set | labels | convnet | mlp |"
    with Image.open(Path(folders[0], "report.png")) as picture:
        assert picture.size[0] > 500


def test_the_same_command_gives_the_same_numbers(workshop, capsys):
    folder = str(saved(workshop / "set"))
    rows = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(rows))
        assert main(["evaluate", folder, "--models=mlp", f"--seed={seed}", *SHORT, "--recipe=dsa"]) == 0
        report = json.loads(Path(folder, "report.json").read_text())
        rows.append([row["accuracies"] for row in report["rows"]])
    assert rows[0] == rows[1] != rows[2]


def test_the_data_is_that_of_the_run(workshop):
    folder = saved(workshop / "run/distilled")
    config = workshop / "run/config.yaml"
    config.write_text(
        "data: {class_path: ClassBatches, init_args: {data: {class_path: Digits, init_args: {split_seed: 5}}}}"
    )
    assert data_of(folder, {"about": {"data": "MNIST"}}, None).split_seed == 5
    assert data_of(folder, {"about": {}}, "kd_digits").split_seed == 0
    moved = Path(shutil.move(folder, workshop / "elsewhere"))
    assert isinstance(data_of(moved, {"about": {"data": "Digits"}}, None), Digits)
    with pytest.raises(InputError, match="does not say which data it was made of; give --config PRESET"):
        data_of(moved, {"about": {"data": None}}, None)


def test_the_width_is_that_of_the_networks_it_was_distilled_with():
    network = {"class_path": "lit_distill.models.CondensationConvNet", "init_args": {"width": 32}}
    assert width_of({"config": {"networks": {"init_args": {"others": [1, {"network": network}]}}}}) == 32
    assert width_of({"config": {"networks": [None, "CondensationConvNet"]}}) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "folder: nowhere holds no distilled dataset (card.json is missing)"),
        (["set", "--recipe=best"], "recipe: 'best' given; accepted are dc, dd, dsa"),
        (["set", "--models=convnet,alexnet"], "models: 'alexnet' is no network; accepted are convnet, mlp"),
        (["set", "--set", "epoch=3"], "set: a recipe has no epoch; accepted are epochs, lr"),
        (["set", "--set", "epochs=many"], "Recipe takes an int as epochs, not 'many'"),
        (["set", "--set", "epochs=0"], "epochs must be at least 1, not 0"),
        (["set", "--set", "epochs"], "set: 'epochs' given; accepted is name=value"),
        (["set", "--networks=0"], "networks must be at least 1, not 0"),
        (["set", "other"], "folder: sets must be alike to be compared, but have images_per_class 1 and 2"),
        (["set", "--config=kd_fashion_mnist"], "data: FashionMNIST has input_shape [1, 28, 28], the set [1, 8, 8]"),
        (["set", "--device=abacus"], "device: abacus cannot be used (Expected one of"),
        (["set", "--teacher=nobody"], "preset 'nobody': no file, preset or method"),
        (["set", "--teacher=trainer/cpu"], "trains no student"),
        (["set", "--teacher=."], "run: . is not the folder of a finished run"),
    ],
)
def test_errors_are_one_line(workshop, capsys, arguments, message):
    saved(workshop / "set")
    saved(workshop / "other", images_per_class=2)
    before = sorted(workshop.rglob("*"))
    assert main(["evaluate", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("lit-distill: error: ")
    assert message in line
    assert sorted(workshop.rglob("*")) == before


@pytest.mark.filterwarnings("ignore:.*returned `None`, this fit will run with no optimizer")
def test_herding_is_an_artifact_with_nothing_to_train(workshop, capsys):
    text = presets.find("herding_fashion_mnist_ipc1").read_text()
    assert "select: herding" in text
    run = ["--data=ClassBatches", "--data.data=Digits", "--model=DatasetDistiller", "--model.synthetic=Selected"]
    assert (
        main(["fit", *run, "--model.synthetic.select=herding", "--trainer.logger=false", "--trainer.max_epochs=1"]) == 0
    )
    folder = Path("runs/run/distilled")
    assert str(folder) in capsys.readouterr().out
    assert main(["evaluate", str(folder), "--models=mlp", *SHORT]) == 0
    rows = json.loads((folder / "report.json").read_text())["rows"]
    by_set = {row["set"]: row["accuracies"] for row in rows}
    assert by_set["distilled"] == by_set["herding"]
