"""What the processes of test_mutual.py do: three networks that learn together on a few digits.

A function whose first argument is ``folder`` is a job, which :func:`tests.distributed.ranks.launch` starts there.
"""

import os
import signal
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from lit_distill.data import Digits, Mixup
from lit_distill.losses import KD, CrossEntropy
from lit_distill.models import MLP, ConvNet
from lit_distill.mutual import MutualDistiller

SAMPLES, BATCH, EPOCHS = 21, 8, 3  # each epoch ends with a batch of 5, which two ranks share as 3 and 2
STEPS = EPOCHS * -(-SAMPLES // BATCH)


def world_size():
    return int(os.environ.get("WORLD_SIZE", "1"))


def data(**kwargs):
    return Digits(limit=SAMPLES, batch_size=BATCH // world_size(), augment=True, **kwargs)


def network(width, dropout):
    net = ConvNet(in_channels=1, width=width, depth=2, norm="group")
    net.avgpool = nn.Sequential(net.avgpool, nn.Dropout(dropout))
    return net


def module(dropout=0.0, **kwargs):
    torch.manual_seed(0)
    return MutualDistiller(
        student=network(8, dropout),
        peers={"wide": network(16, dropout), "flat": MLP(hidden=(16,))},
        losses={"ce": CrossEntropy(weight=0.5), "kd": KD(temperature=2.0)},
        **{"optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.02, momentum=0.9)} | kwargs,
        input_shape=(1, 8, 8),
    )


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


def fit(folder, strategy="auto"):
    """A whole training: its weights, and what validation says."""
    model, run = module(), trainer(folder, strategy=strategy)
    before = whole(model.state_dict())
    run.fit(model, data())
    return {
        "before": before,
        "weights": whole(model.state_dict()),
        "validation": {k: v.item() for k, v in run.callback_metrics.items() if k.startswith("val/")},
    }


class Kill(L.Callback):
    """Ends this process as the kernel would, after so many optimizer steps."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, *args):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def long_run(folder, kill=None, resume=None):
    """A training with dropout, mixup, Adam and a scheduler."""
    model = module(
        dropout=0.3,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
        scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5),
    )
    L.seed_everything(0 if resume is None else 1, verbose=False)  # what the checkpoint brings must win
    last = ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=0, save_last=True)
    run = trainer(folder, *([Kill(kill)] if kill else []), last)
    run.fit(model, data(mix=Mixup()), ckpt_path=resume and str(Path(folder, resume)))
    return {"weights": whole(model.state_dict()), "steps": run.global_step}
