import re

import pytest
from lightning.pytorch.loggers import CSVLogger
from rich.console import Console

from lit_distill.callbacks import DistillProgressBar, progress

from .fake import FakeDistiller, batches, trainer


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setattr(Console, "is_terminal", property(lambda console: True))
    monkeypatch.setenv("COLUMNS", "200")


def fit(folder, bar, **settings):
    run = trainer(folder, bar, enable_progress_bar=True, **settings)
    run.fit(FakeDistiller(), batches(), batches(2))
    return run


def test_a_log_file_gets_a_line_an_epoch(tmp_path, capsys):
    run = fit(tmp_path, DistillProgressBar(), max_epochs=3)
    lines = capsys.readouterr().out.splitlines()
    pattern = r"Epoch (\d)/2  \d\d:\d\d:\d\d  ce \S+  kd \S+  val/acc \S+  val/teacher_acc \S+  val/agreement \S+"
    assert [re.fullmatch(pattern, line).group(1) for line in lines] == ["0", "1", "2"]
    assert f"val/acc {run.callback_metrics['val/acc']:.4g}" in lines[-1]


def test_lines_hold_means_over_the_epoch(tmp_path, capsys):
    terms = []

    class Remembers(DistillProgressBar):
        def on_train_batch_end(self, trainer, *args):
            super().on_train_batch_end(trainer, *args)
            terms.append(trainer.callback_metrics["train/ce"].item())

    fit(tmp_path, Remembers(), max_epochs=2)
    shown = re.findall(r"  ce (\S+)", capsys.readouterr().out)
    assert [float(value) for value in shown] == pytest.approx([sum(terms[:6]) / 6, sum(terms[6:]) / 6], rel=1e-3)


def test_long_epochs_speak_up(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(progress, "QUIET", -1.0)
    fit(tmp_path, DistillProgressBar(), max_epochs=1)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 + 1
    assert re.match(r"Epoch 0/0  batch 2/6  \d\d:\d\d:\d\d  ce \S+  kd \S+$", lines[1])


def test_training_without_end_has_no_last_epoch(tmp_path, capsys):
    fit(tmp_path, DistillProgressBar(), max_epochs=-1, max_steps=6)
    assert capsys.readouterr().out.startswith("Epoch 0  ")


def test_a_terminal_gets_a_bar(tmp_path, capsys, terminal):
    fit(tmp_path, DistillProgressBar(refresh_rate=1000), max_epochs=1)
    out = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().out)
    assert "━" in out
    assert re.search(r"6/6 .*ce: \S+  kd: \S+  val/acc: \S+", out)


@pytest.mark.parametrize("refresh_rate", [0, 10])
def test_silence(tmp_path, capsys, refresh_rate):
    class OtherRank(DistillProgressBar):
        def setup(self, trainer, pl_module, stage):
            super().setup(trainer, pl_module, stage)
            if refresh_rate:
                self.disable()  # what Lightning does on all ranks but the first

    fit(tmp_path, OtherRank(refresh_rate))
    assert not capsys.readouterr().out


def test_names_are_short(tmp_path):
    bar = DistillProgressBar()
    run = fit(tmp_path, bar, logger=CSVLogger(tmp_path), log_every_n_steps=1)
    assert list(bar.get_metrics(run, run.lightning_module)) == [
        "ce",
        "kd",
        "val/acc",
        "val/teacher_acc",
        "val/agreement",
    ]
    assert progress._short("train/loss_step") == progress._short("train/loss_epoch") == "loss"


def test_evaluation_works_with_either(tmp_path, capsys, terminal):
    run = trainer(tmp_path, DistillProgressBar(), enable_progress_bar=True)
    run.validate(FakeDistiller(), batches(2), verbose=False)
    assert "━" in capsys.readouterr().out
