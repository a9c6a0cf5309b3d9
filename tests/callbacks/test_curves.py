from types import SimpleNamespace

import lightning as L
import pytest
import torch
from matplotlib.image import imread

from lit_distill.callbacks import Curves
from lit_distill.callbacks.curves import draw
from lit_distill.callbacks.means import EpochMeans
from lit_distill.errors import InputError

from .fake import FakeDistiller, SaveAfter, batches, trainer


class Terms(L.Callback):
    """The terms of every step."""

    def __init__(self):
        self.kd = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.kd.append(trainer.callback_metrics["train/kd"].item())


class Undrawn(Curves):
    def on_fit_end(self, trainer, pl_module):
        pass


class Epochal(FakeDistiller):
    """Logs over epochs too, and one number at some steps only."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("train/batch", float(batch_idx), on_step=False, on_epoch=True, batch_size=1)
        if self.global_step == 4:
            self.log("rare", 7.0)
        return loss


def test_numbers_of_steps_are_averaged_over_epochs(tmp_path):
    curves, terms = Undrawn(), Terms()
    trainer(tmp_path, curves, terms, max_epochs=3).fit(Epochal(), batches(), batches(1))
    means = {6 * (epoch + 1): sum(terms.kd[6 * epoch : 6 * epoch + 6]) / 6 for epoch in range(3)}
    assert curves.points["train/kd"] == pytest.approx(means)
    assert curves.points["train/batch"] == {6: 2.5, 12: 2.5, 18: 2.5}
    assert set(curves.points["rare"].values()) == {7.0}
    assert curves.points["val/acc"].keys() == {6, 12, 18}
    assert curves.points["val/acc"] != curves.points["val/teacher_acc"]


def test_validations_are_points_of_their_own(tmp_path):
    rare, often = Undrawn(), Undrawn()
    trainer(tmp_path, rare, max_epochs=4, check_val_every_n_epoch=2).fit(FakeDistiller(), batches(), batches(1))
    assert rare.points["val/acc"].keys() == {12, 24}
    assert rare.points["train/kd"].keys() == {6, 12, 18, 24}
    trainer(tmp_path, often, val_check_interval=3).fit(FakeDistiller(), batches(), batches(1))
    assert often.points["val/acc"].keys() == {3, 6, 9, 12}
    trainer(tmp_path, often).validate(FakeDistiller(), batches(1), verbose=False)
    assert often.points["val/acc"].keys() == {3, 6, 9, 12}


def test_a_resumed_run_has_whole_curves(tmp_path):
    whole, resumed = Undrawn(), Undrawn()
    for curves, path in ((whole, None), (resumed, tmp_path / "epochs-2.ckpt")):
        module = FakeDistiller()
        module.student[3].p = 0.0
        trainer(tmp_path, curves, SaveAfter(2), max_epochs=4).fit(module, batches(), batches(1), ckpt_path=path)
    assert resumed.points == whole.points
    assert list(whole.points["train/kd"]) == [6, 12, 18, 24]


def test_writes_a_picture(tmp_path):
    trainer(tmp_path, Curves("picture.png")).fit(FakeDistiller(), batches(), batches(1))
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]
    image = imread(tmp_path / "picture.png")
    assert image.shape[0] > 400
    assert image.shape[1] > 1000
    assert image.std() > 0.05


def test_writes_nothing_when_there_is_nothing_to_show(tmp_path):
    trainer(tmp_path, Curves(), fast_dev_run=True).fit(FakeDistiller(), batches(), batches(1))
    trainer(tmp_path, Curves(), max_epochs=0).fit(FakeDistiller(), batches(), batches(1))
    assert not list(tmp_path.iterdir())


def test_panels():
    points = {
        "train/loss": {10: 3.0, 20: 2.0},
        "train/at": {10: 0.002, 20: 0.001},
        "train/acc": {10: 0.5, 20: 0.6},
        "val/acc": {10: 0.4, 20: 0.5},
        "val/teacher_acc": {10: 0.8, 20: 0.8},
        "val/agreement": {20: 0.7},
        "val/fid": {20: 9.0},
        "grad_cosine/ce_kd": {10: -0.5, 20: 0.5},
        "lr-SGD": {10: 0.1, 20: float("nan")},
    }
    axes = {a.get_title("left"): a for a in draw(points, steps_per_epoch=10).axes}
    labels = {title: [text.get_text() for text in a.get_legend().get_texts()] for title, a in axes.items()}
    assert labels == {
        "Terms of the loss": ["train/loss  2", "train/at  0.001"],
        "Accuracy": ["train/acc  0.6", "val/acc  0.5", "val/teacher_acc  0.8"],
        "Agreement with the teacher": ["val/agreement  0.7"],
        "Cosine between gradients of terms": ["grad_cosine/ce_kd  0.5"],
        "fid": ["val/fid  9"],
        "lr-SGD": ["lr-SGD  nan"],
    }
    accuracy = {line.get_label().split()[0]: line for line in axes["Accuracy"].get_lines()}
    assert list(accuracy["val/acc"].get_xdata()) == [1.0, 2.0]  # epochs
    assert list(accuracy["val/teacher_acc"].get_ydata()) == [0.8, 0.8]
    assert list(accuracy["val/teacher_acc"].get_xdata()) == [0, 1]  # from edge to edge
    assert axes["Terms of the loss"].get_yscale() == "log"
    assert axes["Accuracy"].get_yscale() == "linear"
    assert axes["fid"].get_xlabel() == "epoch"
    (single,) = draw({"train/loss": {10: 3.0}}, steps_per_epoch=None).axes
    assert single.get_xlabel() == "step"
    assert list(single.get_lines()[0].get_xdata()) == [10.0]


def test_means_leave_out_what_is_old():
    logged = SimpleNamespace(callback_metrics={"old": torch.tensor(5.0), "term": torch.tensor(9.0)})
    means = EpochMeans()
    means.start(logged)
    for value in (1.0, 2.0, 6.0):
        logged.callback_metrics["term"] = torch.tensor(value)
        means.add(logged)
    assert means.means() == {"term": 3.0}
    means.start(logged)
    means.add(logged)
    assert means.means() == {}


def test_bad_input():
    with pytest.raises(InputError, match=r"filename: 'curves\.pdf' given to Curves; accepted are names that end in"):
        Curves("curves.pdf")
