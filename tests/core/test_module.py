import inspect
import math

import lightning as L
import pytest
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, WeightAveraging
from lightning.pytorch.cli import LightningArgumentParser, ReduceLROnPlateau
from lightning.pytorch.core.mixins import hparams_mixin
from torch import nn

from lit_distill.callbacks import StudentEMA
from lit_distill.core.checkpoints import WholeFiles
from lit_distill.core.module import DistillModule
from lit_distill.data import Digits
from lit_distill.distiller import Distiller
from lit_distill.errors import InputError
from lit_distill.losses import CrossEntropy, FitNet, LogitLoss
from lit_distill.models import ConvNet

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training"),
    # LightningCLI's parser uses names that jsonargparse 5 will drop
    pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning.pytorch.cli"),
]


def parts(**kwargs):
    torch.manual_seed(0)
    given = {
        "student": ConvNet(in_channels=1, width=4, depth=2),
        "teacher": ConvNet(in_channels=1, width=8, depth=2),
        "losses": {"ce": CrossEntropy(), "fitnet": FitNet(layers={"blocks.0.relu": "blocks.0.relu"})},
        "optimizer": torch.optim.Adam,
        "input_shape": (1, 8, 8),
    }
    return given | kwargs


def digits():
    return Digits(limit=20, batch_size=8)


def trainer(folder, *callbacks, **kwargs):
    settings = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "limit_val_batches": 1,
        "max_epochs": 2,
        "default_root_dir": folder,
    }
    return L.Trainer(callbacks=list(callbacks), **settings | kwargs)


def copied(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


# -- optimizer and scheduler ------------------------------------------------------------------------------------------


def test_only_what_trains_is_optimised():
    module = Distiller(**parts())
    module.student.blocks[0].requires_grad_(False)
    optimizer = module.configure_optimizers()
    given = {id(p) for group in optimizer.param_groups for p in group["params"]}
    expected = [*module.student.blocks[1].parameters(), *module.student.fc.parameters(), *module.losses.parameters()]
    assert given == {id(p) for p in expected}


def test_an_optimizer_of_a_config_has_the_defaults_of_its_class():
    assert inspect.signature(DistillModule).parameters["optimizer"].default is inspect.Parameter.empty
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_lightning_class_args(DistillModule, "model", subclass_mode=True)

    def built(optimizer):
        config = {"model": {"class_path": "lit_distill.core.module.DistillModule", "init_args": optimizer}}
        return parser.instantiate(parser.parse_object(config)).model.optimizer([nn.Parameter(torch.ones(1))])

    adamw = built({"optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3}}})
    sgd = built({"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}})
    assert type(adamw) is torch.optim.AdamW
    assert type(sgd) is torch.optim.SGD
    assert sgd.defaults["weight_decay"] == 0
    assert adamw.defaults["weight_decay"] == torch.optim.AdamW([nn.Parameter(torch.ones(1))]).defaults["weight_decay"]


@pytest.mark.parametrize(("interval", "steps"), [("epoch", 2), ("step", 6)])
def test_a_scheduler_steps_after_epochs_or_steps(tmp_path, interval, steps):
    module = Distiller(
        **parts(),
        scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5),
        scheduler_interval=interval,
    )
    run = trainer(tmp_path)
    run.fit(module, digits())
    assert run.optimizers[0].param_groups[0]["lr"] == 1e-3 * 0.5**steps


def test_a_scheduler_that_follows_a_metric(tmp_path):
    def made(**kwargs):
        module = Distiller(**parts(), scheduler=lambda o: ReduceLROnPlateau(o, factor=0.5, patience=0, **kwargs))
        run = trainer(tmp_path, max_epochs=3)
        run.fit(module, digits())
        return run.optimizers[0].param_groups[0]["lr"]

    # no value is higher than the first by as much
    assert made(monitor="val/acc", mode="max", threshold=2.0, threshold_mode="abs") == 1e-3 * 0.5**2
    assert made(monitor="val/acc", mode="max", threshold=-2.0, threshold_mode="abs") == 1e-3


# -- hyperparameters and checkpoints ----------------------------------------------------------------------------------


def test_hyperparameters_from_python_are_plain_values(tmp_path):
    module = Distiller(**parts())
    assert dict(module.hparams) == {"input_shape": (1, 8, 8), "scheduler_interval": "epoch"}
    run = trainer(tmp_path)
    run.fit(module, digits())
    run.save_checkpoint(tmp_path / "a.ckpt")
    assert torch.load(tmp_path / "a.ckpt", weights_only=True)["hyper_parameters"] == dict(module.hparams)


def test_hyperparameters_from_the_command_line_are_its_config():
    """The context in which LightningCLI builds a module; a private name of Lightning's."""
    config = {"class_path": "Distiller", "init_args": {"student": {"class_path": "ConvNet"}}}
    with hparams_mixin._given_hyperparameters_context(hparams=config, instantiator="lightning.pytorch.cli.x"):
        module = Distiller(**parts())
    assert dict(module.hparams) == config | {"_instantiator": "lightning.pytorch.cli.x"}


def test_a_checkpoint_rebuilds_the_module(tmp_path):
    module = Distiller(**parts())
    run = trainer(tmp_path)
    run.fit(module, digits())
    run.save_checkpoint(tmp_path / "a.ckpt")
    given = parts(student=ConvNet(in_channels=1, width=4, depth=2))
    del given["input_shape"]  # the checkpoint knows
    loaded = Distiller.load_from_checkpoint(tmp_path / "a.ckpt", **given)
    torch.testing.assert_close(copied(loaded), copied(module), rtol=0, atol=0)


@pytest.mark.parametrize(
    "callback", [None, lambda: EMAWeightAveraging(decay=0.5), WeightAveraging, lambda: StudentEMA(decay=0.5)]
)
@pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback with a model that overrides")
def test_no_checkpoint_holds_the_teacher(tmp_path, callback):
    def fitted(epochs, **kwargs):
        module, callbacks = Distiller(**parts()), [callback()] if callback else []
        run = trainer(tmp_path, *callbacks, max_epochs=epochs)
        run.fit(module, digits(), **kwargs)
        run.save_checkpoint(tmp_path / "a.ckpt")
        return module

    def names(value):
        if not isinstance(value, dict):
            return set()
        return {str(name) for name in value} | {name for inner in value.values() for name in names(inner)}

    teacher = copied(parts()["teacher"])
    module = fitted(1)
    saved = names(torch.load(tmp_path / "a.ckpt", weights_only=True))
    assert "student.fc.weight" in saved
    assert not [name for name in saved if "teacher" in name]
    assert module.state_dict().keys() <= saved
    torch.testing.assert_close(copied(module.teacher.module), teacher, rtol=0, atol=0)
    resumed = fitted(2, ckpt_path=tmp_path / "a.ckpt")  # loads strictly
    torch.testing.assert_close(copied(resumed.teacher.module), teacher, rtol=0, atol=0)


def test_checkpoint_files_are_whole_unless_the_trainer_writes_them_otherwise(tmp_path):
    run = trainer(tmp_path, max_epochs=1)
    run.fit(Distiller(**parts()), digits())
    assert type(run.strategy.checkpoint_io) is WholeFiles

    class Own(TorchCheckpointIO):
        pass

    own = Own()
    run = trainer(tmp_path, max_epochs=1, plugins=[own])
    run.fit(Distiller(**parts()), digits())
    assert run.strategy.checkpoint_io is own


def test_random_numbers_go_on_only_where_a_run_goes_on(tmp_path):
    run = trainer(tmp_path, max_epochs=1)
    run.fit(Distiller(**parts()), digits())
    run.save_checkpoint(tmp_path / "a.ckpt")
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)["rng_states"][0]["cpu"]

    class State(L.Callback):
        def on_train_batch_start(self, trainer, *args):
            self.state = torch.get_rng_state()

    def state(module, epochs, **kwargs):
        seen = State()
        torch.manual_seed(7)
        trainer(tmp_path, seen, max_epochs=epochs, limit_train_batches=1).fit(module, digits(), **kwargs)
        return seen.state

    resumed = state(Distiller(**parts()), 2, ckpt_path=tmp_path / "a.ckpt")
    assert torch.equal(resumed, saved)
    again = Distiller.load_from_checkpoint(tmp_path / "a.ckpt", **parts())
    assert not torch.equal(state(again, 1), saved)


# -- losses that are not numbers --------------------------------------------------------------------------------------


class Blows(LogitLoss):
    """Infinite from the fourth step on."""

    calls = 0

    def forward(self, student, teacher, target):
        self.calls += 1
        return student.logits.mean() * (math.inf if self.calls > 3 else 1.0)


def test_a_loss_that_is_no_number_stops_the_run_and_leaves_the_checkpoint(tmp_path):
    module = Distiller(**parts(losses={"ce": CrossEntropy(), "blows": Blows()}))
    checkpoint = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_last=True)
    with pytest.raises(InputError, match=r"train/loss is -?inf at step 3 \(ce \d.*, blows -?inf\); lower") as error:
        trainer(tmp_path, checkpoint).fit(module, digits())
    assert "\n" not in str(error.value)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 3
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            assert torch.equal(saved["state_dict"][name], parameter)


def test_weights_that_are_no_numbers_are_not_saved(tmp_path):
    module = Distiller(**parts())
    run = trainer(tmp_path, max_epochs=1)
    run.fit(module, digits())
    run.save_checkpoint(tmp_path / "a.ckpt")
    before = (tmp_path / "a.ckpt").read_bytes()
    with torch.no_grad():
        module.student.fc.bias[1] = math.nan
    with pytest.raises(InputError, match=r"student\.fc\.bias is not finite at step 3, so no checkpoint is written"):
        run.save_checkpoint(tmp_path / "a.ckpt")
    assert (tmp_path / "a.ckpt").read_bytes() == before


def test_on_a_gpu_the_loss_is_looked_at_now_and_then():
    class AtStep(Distiller):
        global_step = 1

    module, loss = AtStep(**parts()), torch.empty((), device="meta")  # whose value cannot be asked for
    module.stop_at_nan(loss, {"ce": loss})
    AtStep.global_step = 50
    with pytest.raises((RuntimeError, NotImplementedError)):
        module.stop_at_nan(loss, {"ce": loss})


def test_the_share_of_one_process_is_everything(tmp_path):
    module = Distiller(**parts())
    assert module.share(5) == 1
    trainer(tmp_path, max_epochs=1).fit(module, digits())
    assert module.share(5) == 1


# -- compilation ------------------------------------------------------------------------------------------------------


def test_compiling_the_student_in_place_changes_no_names_and_keeps_the_taps(tmp_path):
    plain, compiled = Distiller(**parts()), Distiller(**parts())
    compiled.student.compile(backend="eager", fullgraph=True)
    for module in (plain, compiled):
        torch.manual_seed(0)
        trainer(tmp_path, max_epochs=1).fit(module, digits())
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(copied(compiled), copied(plain))
