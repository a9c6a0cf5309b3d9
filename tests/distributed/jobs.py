"""What the processes of these tests do: small trainings on digits."""

import os
import signal
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from lit_distill.data import Digits, Mixup
from lit_distill.distiller import Distiller
from lit_distill.losses import KD, RKD, CrossEntropy, FitNet
from lit_distill.models import ConvNet


def network(width, dropout=0.0):
    net = ConvNet(in_channels=1, width=width, depth=2, norm="group")
    net.avgpool = nn.Sequential(net.avgpool, nn.Dropout(dropout))
    return net


def module(dropout=0.0, seed=0, **kwargs):
    torch.manual_seed(seed)
    losses = {
        "ce": CrossEntropy(),
        "kd": KD(),
        "fitnet": FitNet(layers={"blocks.0.relu": "blocks.0.relu"}, weight=10.0),
        "rkd": RKD(layers={"flatten": "flatten"}, gather=True, weight=0.1),
    }
    student, teacher = network(8, dropout), network(16)
    distiller = Distiller(
        student=student,
        teacher=teacher,
        losses=losses,
        input_shape=(1, 8, 8),
        **{"optimizer": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9)} | kwargs,
    )
    # BatchNorm sees each rank's samples alone
    losses["fitnet"].regressors[0].bn = nn.GroupNorm(4, 16)
    return distiller


def trainer(folder, *callbacks, **kwargs):
    settings = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "max_epochs": 3,
        "num_sanity_val_steps": 0,
        "default_root_dir": folder,
    }
    return L.Trainer(callbacks=list(callbacks), **settings | kwargs)


def whole(state):
    """Tensors gathered from all ranks."""
    return {k: (v.full_tensor() if hasattr(v, "full_tensor") else v).clone() for k, v in state.items()}


class Losses(L.Callback):
    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        value = outputs["loss"].clone()
        if trainer.world_size > 1:
            torch.distributed.all_reduce(value)
        self.values.append(value.item() / trainer.world_size)


def fit(folder, ranks, variant, strategy="auto"):
    losses = Losses()
    model = module()
    data = Digits(limit=21, batch_size=8 // ranks, augment=True)
    run = trainer(folder, losses, strategy=strategy, devices=ranks, **variant)
    run.fit(model, data)
    metrics = {k: v.item() for k, v in run.callback_metrics.items()}
    return {"losses": torch.tensor(losses.values), "weights": whole(model.state_dict()), "metrics": metrics}


class Kill(L.Callback):
    """Ends this process as the kernel would, at a hook's first call after so many optimizer steps."""

    def __init__(self, hook, step):
        setattr(self, hook, self._hook)
        self.step = step

    def _hook(self, trainer, *args):
        if trainer.global_step == self.step and not trainer.sanity_checking:
            os.kill(os.getpid(), signal.SIGKILL)


def interrupted(folder, hook, step, ckpt, strategy="auto", ranks=1, resume=None, scheduler="step", **kwargs):
    cps = ModelCheckpoint(folder, **(ckpt or {}))
    schedulers = {
        "step": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.01, total_steps=9),
        "epoch": lambda o: torch.optim.lr_scheduler.StepLR(o, step_size=1, gamma=0.5),
        "plateau": lambda o: L.pytorch.cli.ReduceLROnPlateau(o, monitor="val/kl", patience=0, factor=0.5, threshold=0.9)
    }
    model = module(dropout=0.3, optimizer=lambda p: torch.optim.AdamW(p, lr=0.01), scheduler=schedulers[scheduler],
                   scheduler_interval="step" if scheduler == "step" else "epoch", seed=0)
    data = Digits(limit=21, batch_size=8 // ranks, augment=True, mix=Mixup())
    L.seed_everything(5 if resume is None else 6, verbose=False)
    kills = [Kill(hook, step)] if hook else []
    run = trainer(folder, cps, *kills, strategy=strategy, devices=ranks, enable_checkpointing=True, **kwargs)
    run.fit(model, data, ckpt_path=resume)

    return {"weights": whole(model.student.state_dict()), "lr": run.optimizers[0].param_groups[0]["lr"],  "steps": run.global_step}


def go3(folder, spec):
    a, k = eval(spec)
    return interrupted(folder, *a, **k)
