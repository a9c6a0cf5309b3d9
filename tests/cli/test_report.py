"""What a run ends with: a table, a student's file that loads as it says, and everything in the loggers."""

import csv
import json
import math
import re
import struct
from collections import Counter
from pathlib import Path

import pytest
import torch
import wandb
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2

from lit_distill import presets
from lit_distill.cli import main
from lit_distill.cli.trainer import cli
from lit_distill.models import macs, restored
from lit_distill.report import percent
from lit_distill.student_file import load_card

from ..untrained import RESULTS

KD = str(presets.find("kd_digits"))
SHORT = [
    "--trainer.max_epochs=1",
    "--trainer.log_every_n_steps=1",
    *(f"--trainer.limit_{part}_batches=2" for part in ("train", "val", "test")),
]
RUN = Path("runs/kd_digits/version_0")


def rows(said):
    """The rows of the table by their first cell."""
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.splitlines() if line.startswith("│")]
    return {row[0]: row[1:] for row in cells}


def test_the_table_and_where_everything_is(workshop, capsys):
    done = cli(["fit", "--config", KD, *SHORT])
    said = capsys.readouterr().out
    table, card = rows(said), load_card(RUN / "student.safetensors")
    student, teacher = done.model.student, done.model.teacher.module
    sizes = {
        name: [f"{sum(p.numel() for p in network.parameters()):,}", f"{macs(network, (1, 8, 8)):,}"]
        for name, network in (("student", student), ("teacher", teacher))
    }
    results = card["results"]
    assert table["teacher"] == [percent(results["last"]["teacher_acc"]), "", "", *sizes["teacher"]]
    alone = [percent(RESULTS["last"]["acc"]), percent(RESULTS["selected"]["acc"])]
    assert table["student alone"] == [*alone, "", *sizes["student"]]
    reached = [percent(results["last"]["acc"]), percent(results["selected"]["acc"])]
    agreement = percent(results["last"]["agreement"])
    assert table["student distilled"] == [*reached, agreement, *sizes["student"]]
    numbers = {name: [int(text.replace(",", "")) for text in texts] for name, texts in sizes.items()}
    fewer = [numbers["teacher"][i] / numbers["student"][i] for i in range(2)]
    assert f"Compression: {fewer[0]:.1f}x fewer parameters, {fewer[1]:.1f}x fewer multiply-adds" in said
    assert f"Run folder: {RUN} " in said
    assert f"Student: {RUN}/student.safetensors " in said
    (line,) = re.findall(r"^Load it: (.*)$", said, re.M)
    names = {}
    exec(line, names)
    loaded = names["student"].state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in student.state_dict().items())
    assert {path.name for path in RUN.iterdir()} == {
        "checkpoints",
        "config.yaml",
        "curves.png",
        "examples.png",
        "hparams.yaml",
        "metrics.csv",
        "student.json",
        "student.safetensors",
    }


def test_the_line_that_loads_a_timm_student(workshop, capsys):
    """With a nested network, keyword arguments that its signature does not name, and a module of the user's."""
    Path("mine.py").write_text(
        "from torch import nn\n"
        "class Wrapped(nn.Module):\n"
        "    def __init__(self, inner: nn.Module, scale: float = 1.0, sizes: tuple[int, ...] = (1, 2)):\n"
        "        super().__init__()\n"
        "        self.inner, self.scale = inner, scale\n"
        "    def forward(self, x):\n"
        "        return self.scale * self.inner(x)\n"
    )
    inner = {
        "class_path": "timm.create_model",
        "init_args": {"model_name": "test_resnet"},
        "dict_kwargs": {"num_classes": 10, "in_chans": 1},
    }
    student = {"class_path": "mine.Wrapped", "init_args": {"inner": inner, "scale": 2.0}}
    optimizer = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}
    model = {"class_path": "Supervised", "init_args": {"student": student, "optimizer": optimizer}}
    Path("timm.yaml").write_text(yaml.safe_dump({"model": model, "data": {"class_path": "Digits"}}))
    assert main(["fit", "--config", "timm.yaml", *SHORT]) == 0
    (line,) = re.findall(r"^Load it: (.*)$", capsys.readouterr().out, re.M)
    names = {}
    exec(line, names)
    assert names["student"].scale == 2.0
    assert names["student"](torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert "sizes" not in line  # as it is by default


def test_the_selected_weights_are_those_of_the_best_validation(workshop):
    done = cli(
        [
            "fit",
            "--config",
            KD,
            "--trainer.max_epochs=4",
            "--trainer.limit_train_batches=4",
            "--model.optimizer.lr=0.03",
        ]
    )
    with (RUN / "metrics.csv").open() as file:
        lines = [row for row in csv.DictReader(file) if row["val/acc"]]
    best = max(lines, key=lambda row: float(row["val/acc"]))
    assert f"epoch={best['epoch']}-" in done.trainer.checkpoint_callback.best_model_path
    last = torch.load(RUN / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 16  # whether or not the last epoch was the best
    # both were tested on the whole test set
    results = load_card(RUN / "student.safetensors")["results"]
    for which, path in (("last", "last.ckpt"), ("selected", done.trainer.checkpoint_callback.best_model_path)):
        student = restored(type(done.model.student)((1, 8, 8), 10, (128,)), str(RUN / "checkpoints" / Path(path).name))
        done.datamodule.setup("test")
        batches = [done.datamodule.on_after_batch_transfer(b) for b in done.datamodule.test_dataloader()]
        right = torch.cat([student(x).argmax(1) == target for x, target in batches])
        assert right.float().mean().item() == pytest.approx(results[which]["acc"], abs=1e-6)


def test_a_resumed_run_remembers_what_was_best(workshop):
    """Its own folder starts anew, and what is selected does not."""
    first = cli(["fit", "--config", KD, *SHORT])
    best = first.trainer.checkpoint_callback
    more = ["--trainer.max_epochs=2", "--model.optimizer.lr=0", f"--ckpt_path={RUN}/checkpoints/last.ckpt"]
    second = cli(["fit", "--config", KD, *SHORT, *more]).trainer.checkpoint_callback
    assert best.best_k_models.keys() <= second.best_k_models.keys() | {second.best_model_path, best.best_model_path}
    assert second.best_model_score >= best.best_model_score
    if second.best_model_score == best.best_model_score:
        assert second.best_model_path == best.best_model_path
    assert Path(best.best_model_path).exists()  # nothing of the first run was removed
    assert Path("runs/kd_digits/version_1/checkpoints/last.ckpt").exists()


def test_without_a_baseline_and_without_a_teacher(workshop, capsys):
    assert main(["fit", "--config", KD, "--baseline.path=null", *SHORT]) == 0
    assert set(rows(capsys.readouterr().out)) >= {"teacher", "student distilled"}
    assert main(["fit", "--config", str(presets.find("teachers/mlp_digits")), *SHORT]) == 0
    said = capsys.readouterr().out
    assert "student" in rows(said)
    assert "teacher" not in rows(said)
    assert "Compression" not in said


def test_the_other_commands(workshop, capsys):
    assert main(["fit", "--config", KD, *SHORT]) == 0
    capsys.readouterr()
    results = load_card(RUN / "student.safetensors")["results"]["last"]
    last = f"--ckpt_path={RUN}/checkpoints/last.ckpt"
    tested = cli(["test", "--config", KD, last, "--trainer.limit_test_batches=2"])
    assert float(tested.trainer.callback_metrics["test/acc"]) == pytest.approx(results["acc"])
    validated = cli(["validate", "--config", KD, last])
    assert {"val/acc", "val/kl"} <= validated.trainer.callback_metrics.keys()
    capsys.readouterr()
    predicted = cli(["predict", "--config", KD, last])
    captured = capsys.readouterr()
    file = RUN / "predictions.csv"
    assert f"Predictions: {file} (359 samples)" in captured.out
    assert "ckpt_path" not in captured.err
    with file.open() as stream:
        lines = list(csv.DictReader(stream))
    student = predicted.model.student.eval()
    x = torch.cat([predicted.datamodule.on_after_batch_transfer(b)[0] for b in predicted.datamodule.test_dataloader()])
    probabilities, classes = student(x).softmax(1).max(1)
    assert [int(line["class"]) for line in lines] == classes.tolist()
    assert [float(line["probability"]) for line in lines] == pytest.approx(probabilities.tolist(), abs=1e-6)
    assert [int(line["sample"]) for line in lines] == list(range(359))
    assert Counter(path.name for path in Path("runs").rglob("*.yaml"))["config.yaml"] == 1  # the fit's alone


def test_predictions_of_several_processes_are_refused(workshop, capsys):
    assert main(["predict", "--config", KD, "--trainer.accelerator=cpu", "--trainer.devices=2"]) == 2
    assert "trainer.devices: predict runs in one process, not in 2" in capsys.readouterr().err


def test_a_student_that_nobody_trained_is_mentioned(workshop, capsys):
    assert main(["test", "--config", KD, "--trainer.limit_test_batches=1"]) == 0
    assert "ckpt_path is not given: the student is the one that the model builds" in capsys.readouterr().err


def flat(settings, prefix=""):
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def test_tensorboard_gets_everything(workshop):
    assert main(["fit", "--config", KD, "--config", str(presets.find("logger/tensorboard")), *SHORT]) == 0
    events = EventAccumulator(str(RUN)).Reload()
    assert events.Tags()["images"] == ["examples"]
    assert {"train/kd", "val/acc", "test/acc"} <= set(events.Tags()["scalars"])
    (text,) = events.Tensors("student/text_summary")
    (shown,) = text.tensor_proto.string_val
    assert json.loads(shown) == load_card(RUN / "student.safetensors")
    config = yaml.safe_load((RUN / "config.yaml").read_text())
    hparams = yaml.safe_load((RUN / "hparams.yaml").read_text())
    assert hparams == config
    recorded = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    temperature = "model/init_args/losses/kd/init_args/temperature"
    assert temperature in dict(flat(config))
    assert temperature.encode() in recorded


def records(file):
    """Everything that an offline run of Weights & Biases would send: protobuf in the log format of LevelDB."""
    content, position, record = file.read_bytes(), 7, b""
    while position < len(content):
        if 32768 - position % 32768 < 7:  # no header fits in the rest of this block
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        record += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part of one
            yield wandb_internal_pb2.Record.FromString(record)
            record = b""


def test_weights_and_biases_gets_everything(workshop, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    try:
        assert main(["fit", "--config", KD, "--config", str(presets.find("logger/wandb")), *SHORT]) == 0
    finally:
        wandb.teardown()
    (run,) = Path("runs/lit-distill").iterdir()
    assert {"config.yaml", "student.safetensors", "curves.png", "examples.png"} <= {f.name for f in run.iterdir()}
    sent = list(records(next(Path("runs/wandb").glob(f"offline-run-*/run-{run.name}.wandb"))))
    config = {u.key: json.loads(u.value_json) for r in sent for u in (*r.run.config.update, *r.config.update)}
    written = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"] == written["model"]
    assert config["data"] == written["data"]
    (artifact,) = [record.artifact for record in sent if record.HasField("artifact")]
    assert {entry.path for entry in artifact.manifest.contents} == {"student.json", "student.safetensors"}
    assert json.loads(artifact.metadata)["results"] == load_card(run / "student.safetensors")["results"]
    history = {item.nested_key[0] if item.nested_key else item.key for r in sent for item in r.history.item}
    assert {"train/kd", "val/acc", "examples"} <= history


def test_no_logger_at_all(workshop):
    assert main(["fit", "--config", KD, "--trainer.logger=false", *SHORT]) == 0
    assert sorted(path.name for path in workshop.iterdir()) == ["runs", "teachers"]
    assert (workshop / "runs/kd_digits/student.safetensors").is_file()


def test_a_percentage():
    assert percent(0.98765) == "98.77 %"
    assert percent(None) == "-"
    assert math.isclose(float(percent(1.0)[:-2]), 100)
