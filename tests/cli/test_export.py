"""The student alone answers the same from every format, and says so."""

import json
import re
from pathlib import Path

import onnxruntime
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn
from torch.distributed import checkpoint as dcp

from lit_distill.cli import export as tool
from lit_distill.cli import main
from lit_distill.models import restored

from ..untrained import built

SHORT = ["--trainer.max_epochs=1", *(f"--trainer.limit_{part}_batches=2" for part in ("train", "val", "test"))]
STUDENTS = {
    "mlp": {"class_path": "lit_distill.models.MLP", "init_args": {"input_shape": [1, 8, 8], "hidden": [16]}},
    "resnet8": {"class_path": "lit_distill.models.resnet8", "init_args": {"in_channels": 1}},
    "timm": {
        "class_path": "timm.create_model",
        "init_args": {"model_name": "test_resnet"},
        "dict_kwargs": {"num_classes": 10, "in_chans": 1},
    },
}


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The folder of a finished run for each student."""
    folders = {}
    for name, student in STUDENTS.items():
        folder = tmp_path_factory.mktemp(name)
        optimizer = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}
        model = {"class_path": "Supervised", "init_args": {"student": student, "optimizer": optimizer}}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"model": model, "data": {"class_path": "Digits"}}))
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.setenv("PL_GLOBAL_SEED", "0")
            assert main(["fit", "--config", f"{name}.yaml", *SHORT]) == 0
        folders[name] = folder / "runs" / name / "version_0"
    return folders


def student_of(name, weights):
    return restored(built(STUDENTS[name]), str(weights)).eval()


def images(count):
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", STUDENTS)
def test_every_format_answers_as_the_student(finished, tmp_path, capfd, name):
    assert main(["export", str(finished[name]), f"--output={tmp_path}"]) == 0
    said, errors = capfd.readouterr()
    assert errors == ""
    rows = [
        re.fullmatch(r"(\w+) +(\S+) \(([\d,]+) bytes\), largest difference (\S+)", row) for row in said.splitlines()
    ]
    assert [row[1] for row in rows] == ["safetensors", "torch", "onnx"]
    assert all(int(row[3].replace(",", "")) == Path(row[2]).stat().st_size for row in rows)
    assert all(float(row[4]) < 1e-4 for row in rows)
    # of another batch size than the one it was written with
    x = images(7)
    with torch.no_grad():
        expected = student_of(name, finished[name] / "student.safetensors")(x)
        program = torch.export.load(tmp_path / "student.pt2").module()
        torch.testing.assert_close(program(x), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(student_of(name, tmp_path / "student.safetensors")(x), expected, rtol=0, atol=0)
    (logits,) = onnxruntime.InferenceSession(tmp_path / "student.onnx").run(["logits"], {"x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-4, atol=1e-4)
    card = json.loads((tmp_path / "student.json").read_text())
    assert card["which"] == "last"
    assert set(card["results"]) == {"last", "selected"}
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "student.json",
        "student.onnx",
        "student.pt2",
        "student.safetensors",
    ]


def test_a_lightning_checkpoint(finished, tmp_path):
    """Not the last weights, but those of a checkpoint; what the last ones reached says nothing of them."""
    saved = torch.load(finished["mlp"] / "checkpoints" / "last.ckpt", weights_only=True)
    saved["state_dict"]["student.fc.bias"] += 1.0
    torch.save(saved, tmp_path / "other.ckpt")
    arguments = [f"--checkpoint={tmp_path / 'other.ckpt'}", f"--output={tmp_path / 'out'}", "--formats=safetensors"]
    assert main(["export", str(finished["mlp"]), *arguments]) == 0
    weights = load_file(tmp_path / "out" / "student.safetensors")
    assert torch.equal(weights["fc.bias"], saved["state_dict"]["student.fc.bias"])
    card = json.loads((tmp_path / "out" / "student.json").read_text())
    assert card["which"] == str(tmp_path / "other.ckpt")
    assert card["results"] == {}


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")  # one process saves here
def test_a_sharded_checkpoint(finished, tmp_path, capsys):
    """The folder that FSDP2 writes: the module's state and the optimizer's, in parts."""
    student = student_of("mlp", finished["mlp"] / "student.safetensors")
    with torch.no_grad():
        student.fc.bias += 1.0
    state = {f"student.{name}": value for name, value in student.state_dict().items()}
    dcp.save(
        {"state_dict": state | {"losses.kd.scale": torch.ones(1)}, "optimizer_0": {"step": torch.tensor(3)}},
        checkpoint_id=tmp_path / "sharded",
        no_dist=True,
    )
    arguments = [f"--checkpoint={tmp_path / 'sharded'}", f"--output={tmp_path / 'out'}", "--formats=safetensors,torch"]
    assert main(["export", str(finished["mlp"]), *arguments]) == 0
    assert torch.equal(load_file(tmp_path / "out" / "student.safetensors")["fc.bias"], student.fc.bias)
    for part in (tmp_path / "sharded").glob("*.distcp"):
        part.unlink()
    assert main(["export", str(finished["mlp"]), *arguments]) == 2
    assert "sharded is no sharded checkpoint, or lacks a part of one" in capsys.readouterr().err


def test_without_arguments_it_writes_into_the_run(finished):
    assert main(["export", str(finished["mlp"]), "--formats=safetensors"]) == 0
    assert (finished["mlp"] / "export" / "student.safetensors").is_file()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{tmp}"], "run: {tmp} is not the folder of a finished run"),
        (
            ["{run}", "--formats=safetensors,tflite"],
            "formats: tflite is not known; accepted are safetensors, torch, onnx",
        ),
        (["{run}", "--checkpoint=nothing.ckpt"], "nothing.ckpt does not exist"),
        (["{run}", "--checkpoint={tmp}"], "{tmp} is no sharded checkpoint"),
        (["{other}", "--checkpoint={run}/student.safetensors"], "does not fit the model, a CifarResNet"),
    ],
)
def test_what_cannot_be_exported(finished, tmp_path, capsys, arguments, says):
    names = {"tmp": tmp_path, "run": finished["mlp"], "other": finished["resnet8"]}
    assert main(["export", *(a.format(**names) for a in arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("lit-distill: error: ")
    assert says.format(**names) in error
    assert error.count("\n") == 1


class Branching(nn.Module):
    """Looks at its values, which no exporter can follow."""

    def forward(self, x):
        return x.flatten(1) if x.sum() > 0 else -x.flatten(1)


def test_a_network_that_a_format_cannot_hold(tmp_path, capsys):
    card = {"data": {"input_shape": (1, 2, 2)}}
    with pytest.raises(tool.InputError, match="formats: torch cannot hold a Branching: ") as error:
        tool.export(Branching(), card, tmp_path, ["safetensors", "torch"])
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.glob("*.pt2")] == []


def test_a_file_that_answers_differently(finished, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(tool.WRITERS, "torch", lambda *given: tool.to_torch(*given) + 1e-3)
    assert main(["export", str(finished["mlp"]), f"--output={tmp_path}", "--formats=torch"]) == 1
    assert "Looks wrong: torch must not differ from the student by 0.0001 or more" in capsys.readouterr().out
