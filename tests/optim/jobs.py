"""What the processes of test_training.py do: small trainings on digits by an optimizer that tells terms apart.

A function whose first argument is ``folder`` is a job, which :func:`tests.distributed.ranks.launch` starts there.
"""

import os
import signal
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from lit_distill.core import strategies
from lit_distill.data import Digits
from lit_distill.distiller import Distiller
from lit_distill.losses import KD, CrossEntropy, FitNet, LogitLoss
from lit_distill.models import ConvNet
from lit_distill.optim import DOT

SAMPLES, BATCH, EPOCHS = 21, 8, 3  # each epoch ends with a batch of 5, which two ranks share as 3 and 2
STEPS = EPOCHS * -(-SAMPLES // BATCH)


def world_size():
    return int(os.environ.get("WORLD_SIZE", "1"))


def data():
    return Digits(limit=SAMPLES, batch_size=BATCH // world_size(), augment=True)


def network(width, norm="group"):
    return ConvNet(in_channels=1, width=width, depth=2, norm=norm)


def dot(parameters):
    return DOT(parameters, lr=0.02, delta=0.09, weight_decay=0.05)


class FirstClass(LogitLoss):
    """Has a gradient for one row of the classifier alone, which is on one rank where rows are shared out."""

    def forward(self, student, teacher, target):
        return (student.logits[:, 0] - teacher.logits[:, 0]).square().mean()


LOSSES = {
    "logits": lambda: {"ce": CrossEntropy(weight=0.5), "kd": KD(temperature=2.0)},
    # leaves the later layers, and the regressor, to one of the two gradients
    "features": lambda: {"kd": FitNet(weight=2.0, layers={"blocks.0.relu": "blocks.0.relu"}), "ce": CrossEntropy()},
    "a row": lambda: {"ce": CrossEntropy(), "kd": FirstClass()},
}


def module(losses, norm="group", **kwargs):
    torch.manual_seed(0)
    made = Distiller(
        student=network(8, norm),
        teacher=network(16),
        losses=LOSSES[losses](),
        optimizer=dot,
        input_shape=(1, 8, 8),
        **kwargs,
    )
    if losses == "features":  # its BatchNorm would see each rank's samples alone
        made.losses["kd"].regressors[0].bn = nn.GroupNorm(4, 16)
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


def fit(folder, strategy="auto", losses="logits", norm="group", **settings):
    """A whole training: its weights, and what validation says."""
    strategies.UNIT = 590  # so that the second block is a unit
    model, run = module(losses, norm), trainer(folder, strategy=strategy, **settings)
    run.fit(model, data())
    return {
        "weights": whole(model.state_dict()),
        "validation": {k: v.item() for k, v in run.callback_metrics.items() if k.startswith("val/")},
    }


class Kill(L.Callback):
    """Ends this process as the kernel would, after so many optimizer steps."""

    def __init__(self, step):
        self.step = step

    def on_before_optimizer_step(self, trainer, *args):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def long_run(folder, strategy="auto", kill=None, resume=None):
    """A training with a scheduler, whose regressor and classifier get one gradient each."""
    model = module(
        "features",
        scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5),
    )
    last = ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=0, save_last=True)
    run = trainer(folder, *([] if kill is None else [Kill(kill)]), last, strategy=strategy)
    run.fit(model, data(), ckpt_path=resume and str(Path(folder, resume)))
    return {"weights": whole(model.state_dict()), "steps": run.global_step}


def loop(folder):
    """A loop of one's own on two ranks, of which only the first has distillation terms; and what it is on one."""
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x, y = torch.randn(2, 8, 4, dtype=torch.float64), torch.randint(3, (2, 8))
    optimizer = DOT(student.parameters(), lr=0.1, weight_decay=0.1)
    if shared := world_size() > 1:
        torch.distributed.init_process_group("gloo")
        network = nn.parallel.DistributedDataParallel(student)

    def terms(rank, forward):
        kd = student[0](x[rank]).square().mean() if rank == 0 else torch.zeros(())
        return {"ce": nn.functional.cross_entropy(forward(x[rank]), y[rank]), "kd": kd}

    for _ in range(4):
        optimizer.zero_grad()
        if shared:
            with network.no_sync():
                optimizer.backward(terms(torch.distributed.get_rank(), network))
            optimizer.average()
        else:
            first, second = terms(0, student), terms(1, student)
            optimizer.backward({name: (first[name] + second[name]) / 2 for name in first})
        torch.nn.utils.clip_grad_norm_(student.parameters(), 0.1)
        optimizer.step()
    return whole(student.state_dict())
