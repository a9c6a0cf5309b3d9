import json
import math
from datetime import datetime, timezone

import lightning as L
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import lit_distill
from lit_distill.callbacks import StudentEMA, StudentFile
from lit_distill.core.frozen import Frozen
from lit_distill.errors import InputError
from lit_distill.student_file import load_card, save_student, update_card, write_whole

from .fake import FakeDistiller, SaveAfter, Student, batches, same, trainer, weights


class Data(L.LightningDataModule):
    num_classes, input_shape, mean, std = 3, (4,), (0.1, 0.2), torch.tensor([1.0, 2.0])

    def train_dataloader(self):
        return batches()

    def val_dataloader(self):
        return batches(2)


def read(folder):
    return load_file(folder / "student.safetensors"), load_card(folder / "student.safetensors")


def test_holds_the_student_alone_and_says_what_it_is(tmp_path):
    module, before = FakeDistiller(), datetime.now(timezone.utc).replace(microsecond=0)
    module.save_hyperparameters({"losses": {"kd": {"class_path": "KD"}}, "shape": (3, 4)})
    run = trainer(tmp_path, StudentFile())
    run.fit(module, datamodule=Data())
    saved, card = read(tmp_path)
    assert same(saved, weights(module.student))
    assert datetime.fromisoformat(card.pop("created")) >= before
    metrics = card.pop("metrics")
    assert metrics == pytest.approx({name: value.item() for name, value in run.callback_metrics.items()})
    assert {"train/kd", "val/acc", "val/teacher_acc"} <= metrics.keys()
    assert card == {
        "format": 1,
        "lit_distill": lit_distill.__version__,
        "torch": torch.__version__,
        "student": f"{Student.__module__}.Student",
        "parameters": 4 * 7 + 7 + 7 + 7 + 7 * 3 + 3,
        "which": "last",
        "epoch": 2,
        "global_step": 12,
        "data": {"class": "Data", "num_classes": 3, "input_shape": [4], "mean": [0.1, 0.2], "std": [1.0, 2.0]},
        "config": {"losses": {"kd": {"class_path": "KD"}}, "shape": [3, 4]},
    }


def test_is_the_average_when_that_is_what_was_validated(tmp_path):
    module, ema = FakeDistiller(), StudentEMA(decay=0.9)
    trainer(tmp_path, StudentFile(), ema).fit(module, batches(), batches(1))
    saved, card = read(tmp_path)
    assert card["which"] == "ema"
    assert same(saved, ema.averaged_student_state())
    assert same(saved, module.validated[-1])
    assert not same(saved, weights(module.student))


def test_data_and_config_may_be_unknown(tmp_path):
    path = tmp_path / "deep/er/mine.safetensors"
    trainer(tmp_path, StudentFile(str(path))).fit(FakeDistiller(), batches(), batches(1))
    card = load_card(path)
    assert card["config"] is None
    assert card["data"] == dict.fromkeys(["class", "num_classes", "input_shape", "mean", "std"])
    assert sorted(p.name for p in path.parent.iterdir()) == ["mine.json", "mine.safetensors"]


def test_an_unfinished_run_writes_nothing(tmp_path):
    class Stop(L.Callback):
        def on_train_batch_end(self, *args):
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        trainer(tmp_path, StudentFile(), Stop()).fit(FakeDistiller(), batches(), batches(1))
    trainer(tmp_path, StudentFile(), fast_dev_run=True).fit(FakeDistiller(), batches(), batches(1))
    trainer(tmp_path, StudentFile()).validate(FakeDistiller(), batches(1), verbose=False)
    assert not list(tmp_path.iterdir())


def test_resuming_a_finished_run_writes_it_again(tmp_path):
    module = FakeDistiller()
    trainer(tmp_path, SaveAfter(2)).fit(module, batches(), batches(1))
    again = FakeDistiller(seed=5)
    trainer(tmp_path, StudentFile()).fit(again, batches(), batches(1), ckpt_path=tmp_path / "epochs-2.ckpt")
    assert same(read(tmp_path)[0], weights(module.student))


def test_tied_transposed_and_frozen_tensors(tmp_path):
    student = nn.Module()
    student.embedding = nn.Embedding(5, 3)
    student.head = nn.Linear(3, 5, bias=False)
    student.head.weight = student.embedding.weight
    student.register_buffer("turned", torch.arange(6.0).view(2, 3).T)
    student.register_buffer("part", student.turned[:1])
    student.inner_teacher = Frozen(nn.Linear(2, 2))
    save_student(student, tmp_path / "s.safetensors", {})
    saved = load_file(tmp_path / "s.safetensors")
    assert same(saved, weights(student))
    assert saved.keys() == {"embedding.weight", "head.weight", "turned", "part"}
    student.load_state_dict(saved)
    assert student.head.weight is student.embedding.weight


def test_card_entries_of_the_caller_come_last_and_win(tmp_path):
    path = tmp_path / "s.safetensors"
    entries = {"student": "mine", "nan": math.nan, "inf": [math.inf], 3: {"x": torch.ones(2)}}
    save_student(nn.Linear(1, 1), path, entries)
    card = load_card(path)
    assert card["student"] == "mine"
    assert (card["nan"], card["inf"], card["3"]) == (None, [None], {"x": [1.0, 1.0]})
    json.loads((tmp_path / "s.json").read_text(), parse_constant=pytest.fail)  # nothing that JSON does not know


def test_update_card(tmp_path):
    path = tmp_path / "s.safetensors"
    save_student(nn.Linear(1, 1), path, {"epoch": 5, "which": "last"})
    before = path.read_bytes()
    card = update_card(str(path), {"which": "best", "test": {"acc": torch.tensor(0.5)}})
    assert card == load_card(path)
    assert (card["epoch"], card["which"], card["test"]) == (5, "best", {"acc": 0.5})
    assert path.read_bytes() == before


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(partial):
        partial.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_bad_input(tmp_path):
    with pytest.raises(InputError, match=r"path: student\.pt given for a student; accepted are names that end in"):
        StudentFile("student.pt")
    module = FakeDistiller()
    del module.student
    with pytest.raises(InputError, match="StudentFile needs a module with a student"):
        trainer(tmp_path, StudentFile()).fit(module, batches(), batches(1))

    class Extra(nn.Linear):
        def get_extra_state(self):
            return {"not": "a tensor"}

    with pytest.raises(InputError, match="its state '_extra_state' is a dict"):
        save_student(Extra(1, 1), tmp_path / "s.safetensors", {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "has no card beside it"),
        ("{", "is no JSON"),
        ("[1]", "is no student's card"),
        ('{"student": "x"}', "is no student's card"),
        ('{"format": 99}', "has format 99; accepted by lit_distill"),
    ],
)
def test_bad_cards(tmp_path, text, message):
    if text is not None:
        (tmp_path / "s.json").write_text(text)
    for use in (load_card, lambda path: update_card(path, {})):
        with pytest.raises(InputError, match=message) as error:
            use(tmp_path / "s.safetensors")
        assert "\n" not in str(error.value)
