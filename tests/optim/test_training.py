"""Terms with momenta of their own in a Distiller: whatever Lightning does around a step, and on two ranks."""

from signal import SIGKILL
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lit_distill.callbacks import GradientConflict, StudentEMA
from lit_distill.distiller import Distiller, LogitDistiller
from lit_distill.errors import InputError
from lit_distill.losses import KD, CrossEntropy
from lit_distill.optim import DOT
from lit_distill.supervised import Supervised

from ..distributed.ranks import launch, run
from . import jobs

LR, DECAY = 0.1, 0.02


def network():
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 7))


def dot(parameters):
    return DOT(parameters, lr=LR, weight_decay=DECAY)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=LR, momentum=0.9, weight_decay=DECAY)


def distiller(optimizer=dot, **kwargs):
    torch.manual_seed(0)
    return LogitDistiller(
        student=network(),
        teacher=nn.Linear(5, 7),
        losses={"ce": CrossEntropy(weight=0.5), "kd": KD(weight=2.0, temperature=2.0)},
        optimizer=optimizer,
        input_shape=(5,),
        **kwargs,
    )


def loader(size=8):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 5, generator=generator), torch.randint(7, (40,), generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size=size)


def fit(folder, module, *callbacks, size=8, ckpt_path=None, **settings):
    run = L.Trainer(
        callbacks=list(callbacks),
        default_root_dir=folder,
        **{
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "max_epochs": 1,
            "num_sanity_val_steps": 0,
        }
        | settings,
    )
    run.fit(module, loader(size), loader(), ckpt_path=ckpt_path)
    return run


def weights(module):
    return {name: value.detach().clone() for name, value in module.student.named_parameters()}


def by_loop(step=lambda student, optimizer: optimizer.step()):
    """What a loop of one's own makes of the same student."""
    module = distiller()
    student, teacher = module.student, module.teacher.module
    optimizer = dot(student.parameters())
    for x, y in loader():
        optimizer.zero_grad()
        said, taught = student(x) / 2, teacher(x) / 2
        kd = F.kl_div(said.log_softmax(1), taught.log_softmax(1), log_target=True, reduction="batchmean") * 4
        optimizer.backward({"ce": 0.5 * F.cross_entropy(2 * said, y), "kd": 2.0 * kd})
        step(student, optimizer)
    return weights(module)


def test_a_distiller_trains_as_a_loop(tmp_path):
    module = distiller()
    fit(tmp_path, module)
    torch.testing.assert_close(weights(module), by_loop())
    other = distiller(sgd)
    fit(tmp_path, other)
    assert (weights(other)["0.weight"] - weights(module)["0.weight"]).abs().max() > 1e-3


def test_without_a_difference_it_is_sgd(tmp_path):
    def without(parameters):
        return DOT(parameters, lr=LR, weight_decay=DECAY, delta=0.0)

    one, other = distiller(without), distiller(sgd)
    fit(tmp_path, one)
    fit(tmp_path, other)
    torch.testing.assert_close(weights(one), weights(other))


def test_one_term_alone_trains_as_by_sgd(tmp_path):
    ends = []
    for optimizer in (dot, sgd):
        torch.manual_seed(0)
        module = Supervised(student=network(), optimizer=optimizer, input_shape=(5,))
        fit(tmp_path, module)
        ends.append(weights(module))
    torch.testing.assert_close(*ends)


def test_clipping(tmp_path):
    def step(student, optimizer):
        nn.utils.clip_grad_norm_(student.parameters(), 0.5)
        optimizer.step()

    module = distiller()
    fit(tmp_path, module, gradient_clip_val=0.5)
    torch.testing.assert_close(weights(module), by_loop(step))


def test_two_accumulated_halves_are_one_batch(tmp_path):
    halves, whole = distiller(), distiller()
    assert fit(tmp_path, halves, size=4, accumulate_grad_batches=2).global_step == 5
    assert fit(tmp_path, whole, size=8).global_step == 5
    torch.testing.assert_close(weights(halves), weights(whole))


def test_bf16(tmp_path):
    exact, half = distiller(), distiller()
    fit(tmp_path, exact)
    fit(tmp_path, half, precision="bf16-mixed")
    torch.testing.assert_close(weights(half), weights(exact), rtol=0, atol=2e-2)
    assert not torch.equal(weights(half)["0.weight"], weights(exact)["0.weight"])


def fp16(scale):
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return MixedPrecision(precision="16-mixed", device="cpu", scaler=scaler)


@pytest.mark.parametrize("settings", [{}, {"gradient_clip_val": 0.5}, {"accumulate_grad_batches": 2}])
def test_fp16_with_a_scaler(tmp_path, settings):
    ends = []
    for scale in (1.0, 2.0**10):  # at neither of which a gradient overflows, or underflows to speak of
        module = distiller()
        fit(tmp_path, module, plugins=[fp16(scale)], **settings)
        ends.append(weights(module))
    torch.testing.assert_close(*ends, rtol=0, atol=1e-3)
    exact = distiller()
    fit(tmp_path, exact, **settings)
    torch.testing.assert_close(ends[1], weights(exact), rtol=0, atol=5e-3)


def test_an_overflow_is_a_step_not_taken(tmp_path):
    module, plugin = distiller(), fp16(2.0**40)
    before = weights(module)
    fit(tmp_path, module, plugins=[plugin], max_steps=1)
    torch.testing.assert_close(weights(module), before, rtol=0, atol=0)
    assert plugin.scaler.get_scale() == 2.0**39


def test_callbacks_that_look_at_gradients_and_weights(tmp_path):
    watched, alone = distiller(), distiller()
    run = fit(tmp_path, watched, GradientConflict(every=1), StudentEMA(decay=0.5))
    fit(tmp_path, alone)
    assert "grad_cosine/ce_kd" in run.callback_metrics
    torch.testing.assert_close(weights(watched), weights(alone), rtol=0, atol=0)


def test_resumed_with_other_settings(tmp_path):
    """What the user changes counts at once, as with every optimizer."""

    def plain(**arguments):
        module = distiller(lambda parameters: DOT(parameters, **arguments))
        module.hparams["optimizer"] = {"class_path": "lit_distill.optim.DOT", "init_args": arguments}
        return module

    first = fit(tmp_path, plain(lr=LR, weight_decay=DECAY), max_epochs=1)
    first.save_checkpoint(tmp_path / "one.ckpt")
    changed = {"lr": LR / 2, "weight_decay": DECAY, "delta": 0.05}
    resumed = fit(tmp_path, plain(**changed), max_epochs=2, ckpt_path=tmp_path / "one.ckpt")
    (optimizer,) = resumed.optimizers
    assert optimizer.buffers == {"momentum_buffer": 0.05, "momentum_buffer_ce": -0.05}
    assert optimizer.param_groups[0]["lr"] == LR / 2


def test_a_name_that_is_no_term(tmp_path):
    module = distiller(lambda parameters: DOT(parameters, lr=LR, task=("task",)))
    with pytest.raises(InputError, match="for the term 'task', which is none of the terms: ce, kd"):
        fit(tmp_path, module)


def test_a_module_that_does_not_know_its_terms(tmp_path):
    class Foreign(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.student = network()

        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self.student(batch[0]), batch[1])

        def validation_step(self, batch, batch_idx):
            """Nothing."""

        def configure_optimizers(self):
            return dot(self.parameters())

    with pytest.raises(InputError, match="DOT needs the gradient of each term"):
        fit(tmp_path, Foreign())


def test_a_strategy_that_averages_one_gradient(tmp_path, monkeypatch):
    module = distiller()
    fit(tmp_path, module)
    monkeypatch.setattr(module, "_trainer", SimpleNamespace(strategy=SimpleNamespace(), world_size=2))
    monkeypatch.setattr(module, "optimizers", lambda use_pl_optimizer: dot(module.student.parameters()))
    with pytest.raises(
        InputError, match=r"SimpleNamespace averages one gradient .* DOT needs several; accepted are ddp"
    ):
        module.backward(torch.zeros((), requires_grad=True))


def test_an_objective_of_ones_own(tmp_path):
    class Own(Distiller):
        def distill(self, student, teacher, target):
            return {
                "label": F.cross_entropy(student.logits, target),
                "near": (student.logits - teacher.logits).abs().mean(),
            }

    module = Own(
        student=network(),
        teacher=nn.Linear(5, 7),
        losses={},
        optimizer=lambda parameters: DOT(parameters, lr=LR, task=("label",)),
        input_shape=(5,),
    )
    before = weights(module)
    fit(tmp_path, module)
    assert not torch.equal(weights(module)["0.weight"], before["0.weight"])


# -- two ranks, and resume --------------------------------------------------------------------------------------------

SETTINGS = {"plain": {}, "clipped and accumulated": {"gradient_clip_val": 0.5, "accumulate_grad_batches": 2}}


KINDS = [*((settings, losses) for settings in SETTINGS for losses in ("logits", "features")), ("plain", "a row")]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The trainings on one process."""
    folder = tmp_path_factory.mktemp("alone")
    return {(s, losses): run(jobs.fit, folder, losses=losses, ranks=1, **SETTINGS[s])[0] for s, losses in KINDS}


@pytest.mark.distributed
@pytest.mark.parametrize(("settings", "losses"), KINDS)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_ranks_equal_one(strategy, settings, losses, alone, tmp_path):
    one = alone[settings, losses]
    for result in run(jobs.fit, tmp_path, strategy, losses=losses, **SETTINGS[settings]):
        torch.testing.assert_close(result["weights"], one["weights"], rtol=0, atol=1e-6)
        assert result["validation"] == pytest.approx(one["validation"], abs=1e-6)


@pytest.mark.distributed
def test_a_loop_of_ones_own_on_two_ranks(tmp_path):
    (one,) = run(jobs.loop, tmp_path / "one", ranks=1)
    for weights in run(jobs.loop, tmp_path / "two"):
        torch.testing.assert_close(weights, one)


@pytest.mark.distributed
def test_under_ddp_the_statistics_of_batch_norm_are_those_of_rank_0(tmp_path):
    zero, one = run(jobs.fit, tmp_path, "ddp", norm="batch")
    torch.testing.assert_close(zero["weights"], one["weights"], rtol=0, atol=0)
    assert zero["weights"]["student.blocks.0.norm.num_batches_tracked"] == jobs.STEPS


@pytest.mark.distributed
@pytest.mark.parametrize(("strategy", "ranks"), [("auto", 1), ("ddp", 2), ("fsdp2", 2)])
def test_resumed_equals_uninterrupted(strategy, ranks, tmp_path):
    whole = run(jobs.long_run, tmp_path / "whole", strategy, ranks=ranks)
    folder = tmp_path / "killed"
    assert launch(jobs.long_run, folder, strategy, kill=4, ranks=ranks).codes == [-SIGKILL] * ranks
    resumed = run(jobs.long_run, folder, strategy, resume="last.ckpt", ranks=ranks)
    for result, expected in zip(resumed, whole, strict=True):
        assert result["steps"] == expected["steps"] == jobs.STEPS
        torch.testing.assert_close(result["weights"], expected["weights"], rtol=0, atol=0 if ranks == 1 else 1e-6)
