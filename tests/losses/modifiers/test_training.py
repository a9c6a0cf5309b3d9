"""Modifiers in a Distiller."""

import subprocess
import sys
import warnings
from pathlib import Path

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill.callbacks import Schedule, WarmUp
from lit_distill.distiller import LogitDistiller
from lit_distill.errors import InputError
from lit_distill.losses import CTKD, DTS, KD, CrossEntropy, NoisyTeacher, Standardised
from lit_distill.models import Ensemble

from .common import KINDS, kd


def distiller(loss, teacher=None):
    torch.manual_seed(0)
    return LogitDistiller(
        student=nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 7)),
        teacher=teacher or nn.Linear(5, 7),
        losses={"ce": CrossEntropy(weight=0.1), "kd": loss},
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
        input_shape=(5,),
    )


def loader():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 5, generator=generator), torch.randint(7, (40,), generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size=8)


def fit(module, folder, *callbacks, ckpt_path=None, **kwargs):
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        callbacks=list(callbacks),
        **{"max_epochs": 1} | kwargs,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message="Found .* module.* in eval mode")
        trainer.fit(module, loader(), loader(), ckpt_path=ckpt_path)
    return trainer


@pytest.mark.parametrize("kind", KINDS)
def test_one_step_and_back_from_a_checkpoint(kind, tmp_path):
    module = distiller(KINDS[kind](kd()))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    trainer = fit(module, tmp_path, max_steps=1)
    after = module.state_dict()
    assert not torch.equal(after["student.0.weight"], before["student.0.weight"])
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    other = distiller(KINDS[kind](kd()))
    other.load_state_dict(torch.load(tmp_path / "one.ckpt", weights_only=True)["state_dict"])
    assert after.keys() == other.state_dict().keys()
    assert all(torch.equal(value, after[name]) for name, value in other.state_dict().items())


def stateful():
    return NoisyTeacher(CTKD(Standardised(kd()))), NoisyTeacher(DTS(kd()))


@pytest.mark.parametrize("which", [0, 1])
def test_interrupted_and_resumed_is_uninterrupted(which, tmp_path):
    number, end = (("losses.kd.loss.strength", 1.0), ("losses.kd.loss.progress", 1.0))[which]

    def plan():
        return Schedule(number, start=0.0, end=end)

    whole = distiller(stateful()[which])
    fit(whole, tmp_path, plan(), max_epochs=2)

    class Stop(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step == 5:
                trainer.save_checkpoint(tmp_path / "half.ckpt")

    fit(distiller(stateful()[which]), tmp_path, plan(), Stop(), max_epochs=2)
    resumed = distiller(stateful()[which])
    fit(resumed, tmp_path, plan(), max_epochs=2, ckpt_path=tmp_path / "half.ckpt")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert whole.losses["kd"].draws.count == 10


def test_a_learnt_temperature_is_trained_with_the_student(tmp_path):
    module = distiller(CTKD(kd()))
    fit(module, tmp_path)
    assert not torch.equal(module.losses["kd"].theta, torch.ones(1))


def test_schedules_reach_what_is_within(tmp_path):
    module = distiller(Standardised(KD(), weight=9.0))
    fit(
        module,
        tmp_path,
        Schedule("losses.kd.loss.temperature", start=4.0, end=2.0, until=0.5),
        WarmUp("losses.kd.weight", epochs=2),
        max_epochs=2,
    )
    assert module.losses["kd"].loss.temperature == 2
    assert module.losses["kd"].weight == 9


def test_a_schedule_of_a_weight_within_is_refused(tmp_path):
    module = distiller(Standardised(KD(), weight=9.0))
    with pytest.raises(InputError, match=r"must be 1, got 0\.5; weigh Standardised instead"):
        fit(module, tmp_path, WarmUp("losses.kd.loss.weight", epochs=2), max_epochs=2)


def test_without_a_schedule_dts_says_what_is_missing(tmp_path):
    with pytest.raises(InputError, match=r"callback Schedule with path: losses\.<name>\.progress"):
        fit(distiller(DTS(kd())), tmp_path)


def test_a_member_of_an_ensemble_that_the_term_within_names(tmp_path):
    torch.manual_seed(1)
    members = {name: nn.Linear(5, 7) for name in "ab"}
    module = distiller(Standardised(KD(teacher="b")), teacher=Ensemble(members))
    heard = module.teacher_of(module.losses["kd"], module.forward_teacher(x := torch.randn(3, 5)))
    torch.testing.assert_close(heard.logits, members["b"](x))
    fit(module, tmp_path, max_steps=1)


@pytest.mark.distributed
def test_two_ranks(tmp_path):
    script = str(Path(__file__).with_name("two_ranks.py"))
    ranks = [
        subprocess.Popen(
            [sys.executable, script, str(rank), str(tmp_path / "meeting")], stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    errors = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(errors)
