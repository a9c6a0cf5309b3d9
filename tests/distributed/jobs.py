"""What the processes of these tests do: small trainings on digits.

A function whose first argument is ``folder`` is a job, which :func:`.ranks.launch` starts in that folder.
"""

import copy
import os
import signal
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from lit_distill.callbacks import StudentEMA
from lit_distill.cli import main
from lit_distill.core import strategies
from lit_distill.core.module import DistillModule
from lit_distill.data import Digits, Mixup
from lit_distill.distiller import Distiller
from lit_distill.errors import InputError
from lit_distill.losses import KD, RKD, CrossEntropy, FitNet, LogitLoss
from lit_distill.models import ConvNet

SAMPLES, BATCH, EPOCHS = 21, 8, 3  # each epoch ends with a batch of 5, which two ranks share as 3 and 2
STEPS = EPOCHS * -(-SAMPLES // BATCH)


def world_size():
    return int(os.environ.get("WORLD_SIZE", "1"))


def data(**kwargs):
    return Digits(limit=SAMPLES, batch_size=BATCH // world_size(), augment=True, **kwargs)


def network(width, dropout=0.0, norm="group"):
    net = ConvNet(in_channels=1, width=width, depth=2, norm=norm)
    net.avgpool = nn.Sequential(net.avgpool, nn.Dropout(dropout))
    return net


def losses():
    return {
        "ce": CrossEntropy(),
        "kd": KD(),
        "fitnet": FitNet(layers={"blocks.0.relu": "blocks.0.relu"}),
        "rkd": RKD(layers={"flatten": "flatten"}, gather=True, weight=0.1),
    }


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.02, momentum=0.9)


def module(kind=Distiller, dropout=0.0, norm="group", terms=None, **kwargs):
    torch.manual_seed(0)
    terms = losses() if terms is None else terms
    arguments = {"optimizer": sgd, "input_shape": (1, 8, 8)} | kwargs
    made = kind(student=network(8, dropout, norm), teacher=network(16), losses=terms, **arguments)
    for term in terms.values():
        if isinstance(term, FitNet):  # its BatchNorm would see each rank's samples alone
            term.regressors[0].bn = nn.GroupNorm(4, 16)
    return made


def trainer(folder, *callbacks, **kwargs):
    settings = {
        "accelerator": "cpu",
        "devices": world_size(),
        "logger": False,
        "enable_checkpointing": any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "max_epochs": EPOCHS,
        "default_root_dir": folder,
    }
    return L.Trainer(callbacks=list(callbacks), **settings | kwargs)


def whole(state):
    """Copies of tensors, gathered from all ranks."""
    return {k: (v.full_tensor() if hasattr(v, "full_tensor") else v).detach().clone() for k, v in state.items()}


class Steps(L.Callback):
    """The loss of every step, the mean over ranks, and how many samples it saw on this rank."""

    def __init__(self):
        self.losses, self.rows = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        value = outputs["loss"].clone()
        if trainer.world_size > 1:
            torch.distributed.all_reduce(value)
        self.losses.append(value.item() / trainer.world_size)
        self.rows.append(len(batch[0]))


def fit(folder, strategy="auto", norm="group", terms=None, **settings):
    """A whole training: its losses, weights, and what validation says."""
    strategies.UNIT = 590  # so that the second block is a unit, and not its convolution
    steps, model = Steps(), module(norm=norm, terms=None if terms is None else {k: TERMS[k]() for k in terms})
    run = trainer(folder, steps, strategy=strategy, **settings)
    run.fit(model, data())
    return {
        "losses": torch.tensor(steps.losses),
        "rows": steps.rows,
        "weights": whole(model.state_dict()),
        "validation": {k: v.item() for k, v in run.callback_metrics.items() if k.startswith("val/")},
    }


class Learned(LogitLoss):
    """Divides logits by a learned temperature of some shape."""

    def __init__(self, shape=(1,), **kwargs):
        super().__init__(**kwargs)
        self.temperature = nn.Parameter(torch.full(shape, 2.0))

    def forward(self, student, teacher, target):
        return nn.functional.cross_entropy(student.logits / self.temperature, target)


class Blows(LogitLoss):
    """Not a number on the last rank from the third step on."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.calls = 0

    def forward(self, student, teacher, target):
        self.calls += self.training
        last = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 1
        return student.logits.mean() * (float("nan") if last and self.calls > 2 else 1.0)


TERMS = {
    "learned": Learned,
    "blows": Blows,
    "ce": CrossEntropy,
    "inner": lambda: FitNet(layers={"blocks.1.conv": "blocks.1.conv"}),
}


class Kill(L.Callback):
    """Ends this process as the kernel would, when a hook is called after so many optimizer steps."""

    def __init__(self, hook, step):
        setattr(self, hook, self._hook)
        self.step = step

    def _hook(self, trainer, *args):
        if trainer.global_step == self.step and not trainer.sanity_checking:
            os.kill(os.getpid(), signal.SIGKILL)


def schedule(name):
    if name == "step":
        return lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=STEPS)
    return lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)


def long_run(folder, strategy="auto", kill=None, resume=None, interval="step", **settings):
    """A training with everything that draws or counts; ``kill`` is a hook and a step, ``resume`` a checkpoint."""
    model = module(
        dropout=0.3,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
        scheduler=schedule(interval),
        scheduler_interval=interval,
    )
    L.seed_everything(0 if resume is None else 1, verbose=False)  # what the checkpoint brings must win
    ema, last = StudentEMA(decay=0.9), ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=0, save_last=True)
    run = trainer(folder, ema, *([Kill(*kill)] if kill else []), last, strategy=strategy, **settings)
    run.fit(model, data(mix=Mixup()), ckpt_path=resume)
    return {
        "weights": whole(model.student.state_dict()),
        "average": ema.averaged_student_state(),
        "steps": run.global_step,
    }


def stops(folder, strategy):
    """A training whose loss becomes NaN on one rank."""
    terms = {"ce": CrossEntropy(), "blows": Blows()}
    checkpoint = ModelCheckpoint(folder, every_n_train_steps=1, save_last=True)
    trainer(folder, checkpoint, strategy=strategy).fit(module(terms=terms), data())


class Bomb:
    """Something whose pickling ends the process."""

    def __reduce__(self):
        os.kill(os.getpid(), signal.SIGKILL)


class Fuse(L.Callback):
    """Puts a bomb into the checkpoint."""

    def __init__(self):
        self.lit = False

    def state_dict(self):
        return {"bomb": Bomb()} if self.lit else {}


def killed_save(folder, strategy):
    """Saves a checkpoint, trains on, and is killed while it saves to the same place."""
    fuse, path = Fuse(), Path(folder, "last.ckpt")
    run, model, samples = trainer(folder, fuse, strategy=strategy, max_epochs=1), module(), data()
    run.fit(model, samples)
    run.save_checkpoint(path)
    torch.save(whole(model.state_dict()), Path(folder, "weights.pt"))
    run.fit_loop.max_epochs = 2
    run.fit(model, samples)
    fuse.lit = True
    run.save_checkpoint(path)


def loaded(folder, strategy, path):
    """The weights that a checkpoint gives to another module."""
    model = module()
    nn.init.zeros_(model.student.fc.weight)
    run = trainer(folder, strategy=strategy)
    run.test(model, data(), ckpt_path=path, verbose=False)
    return whole(model.state_dict())


def saved_fsdp2(folder):
    """A training that is tested, saved over an older checkpoint, and tested from it."""
    ema = StudentEMA(decay=0.5)
    run, model, samples = trainer(folder, ema, strategy="fsdp2"), module(), data()
    path = Path(folder, "last.ckpt")
    run.fit(model, samples)
    run.save_checkpoint(path)
    run.save_checkpoint(path)
    (tested,) = run.test(model, samples, verbose=False)
    (again,) = run.test(model, samples, ckpt_path=path, verbose=False)
    predicted = torch.cat(run.predict(model, samples))
    return {
        "tested": tested,
        "tested after loading": again,
        "predicted": predicted,
        "weights": whole(model.state_dict()),
        "average": ema.averaged_student_state(),
    }


class Block(nn.Module):
    """A large part, and a larger one around it."""

    def __init__(self):
        super().__init__()
        self.around = nn.Linear(8, 8)
        self.inner = nn.Sequential(nn.Linear(8, 8), nn.ReLU())

    def forward(self, x):
        return x + self.inner(self.around(x))


class Nested(nn.Module):
    """Blocks in blocks, a list whose items are called one by one, and weights that two modules share."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(nn.Linear(4, 8), Block(), nn.Linear(8, 2))
        self.lists = nn.ModuleList([nn.ModuleList([nn.Linear(2, 16), nn.Linear(16, 16)])])
        self.head = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 3))
        self.head[0].weight = self.lists[0][1].weight
        self.scale = nn.Parameter(torch.tensor(2.0), requires_grad=False)

    def forward(self, x):
        x = self.blocks(x)
        for layer in self.lists[0]:
            x = layer(x).relu()
        return self.head(x) * self.scale


def sharded(folder):
    """What sharding does to a network that trains, to a frozen one, and to a list of networks."""
    torch.distributed.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (world_size(),))
    strategies.UNIT = 50
    torch.manual_seed(0)
    plain, x = Nested(), torch.randn(5, 4)
    trained, frozen, listed = copy.deepcopy(plain), copy.deepcopy(plain), nn.ModuleDict({"a": copy.deepcopy(plain)})
    frozen.requires_grad_(False)
    for network_ in (trained, frozen, listed):
        strategies.shard(network_, mesh)
    outputs = {"plain": plain(x), "trained": trained(x), "frozen": frozen(x), "listed": listed["a"](x)}
    plain(x).square().sum().backward()
    outputs["trained"].square().sum().backward()
    return {
        "outputs": {name: output.detach() for name, output in outputs.items()},
        "gradients": {name: whole({name: p.grad})[name] for name, p in trained.named_parameters() if p.requires_grad},
        "expected": {name: p.grad for name, p in plain.named_parameters() if p.requires_grad},
        "units": [name for name, part in trained.named_modules() if isinstance(part, FSDPModule)],
        "not sharded": {
            "trained": [name for name, p in trained.named_parameters() if not isinstance(p, DTensor)],
            "frozen": [name for name, p in frozen.named_parameters() if not isinstance(p, DTensor)],
        },
        "tied": trained.head[0].weight is trained.lists[0][1].weight,
    }


class Forgetful(Distiller):
    """Holds a parameter that no network holds."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.scale = nn.Parameter(torch.ones(1))


def refused(folder):
    """What is said about modules that FSDP2 cannot train."""
    messages = {}
    for name, made in {
        "outside": module(Forgetful),
        "scalar": module(terms={"ce": CrossEntropy(), "learned": Learned(shape=())}),
    }.items():
        try:
            trainer(folder, strategy="fsdp2").fit(made, data())
        except InputError as error:
            messages[name] = str(error)
    return messages


def without_parameters(folder):
    """A teacher that has none."""
    teacher = nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(10))
    model = Distiller(student=network(8), teacher=teacher, losses={"kd": KD()}, optimizer=sgd, input_shape=(1, 8, 8))
    run = trainer(folder, strategy="fsdp2", max_epochs=1)
    run.fit(model, data())
    return run.global_step


CONFIG = """
seed_everything: 3
model:
  class_path: Distiller
  init_args:
    student: {class_path: lit_distill.models.MLP, init_args: {hidden: [16]}}
    teacher: {class_path: lit_distill.models.ConvNet, init_args: {in_channels: 1, width: 8, depth: 2, norm: group}}
    losses: {ce: {class_path: CrossEntropy}, kd: {class_path: KD}}
    optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.01}}
    scheduler: {class_path: torch.optim.lr_scheduler.CosineAnnealingLR, init_args: {T_max: 3}}
data: {class_path: Digits, init_args: {limit: 21, batch_size: 8, augment: true}}
trainer: {accelerator: cpu, devices: 1, max_epochs: 3, enable_progress_bar: false, default_root_dir: .}
checkpoint: {every_n_train_steps: 1, monitor: null}
"""


def command(folder, *arguments, kill=None):
    """The command line, killed after ``kill`` steps."""

    def on_train_batch_start(self, batch, batch_idx):
        if self.trainer.global_step == kill:
            os.kill(os.getpid(), signal.SIGKILL)

    DistillModule.on_train_batch_start = on_train_batch_start
    os.chdir(folder)
    return main(list(arguments))
