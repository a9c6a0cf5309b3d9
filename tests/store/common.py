"""Small data, networks and trainers for training from stored answers, and what processes do with them."""

import os

import lightning as L
import torch

from lit_distill.data import Digits
from lit_distill.distiller import Distiller
from lit_distill.losses import FKD, KD
from lit_distill.models import ConvNet
from lit_distill.store import StoredDistiller, make, make_labels

VIEWS, SAMPLES, BATCH, EPOCHS = 2, 21, 8, 4


def data(**kwargs):
    return Digits(**{"limit": SAMPLES, "batch_size": BATCH, "augment": True, "views": VIEWS, "index": True} | kwargs)


def network(width, seed=0):
    torch.manual_seed(seed)
    return ConvNet(in_channels=1, width=width, depth=2, norm="group")


def teacher(seed=1):
    """A network that is sure of some images, and not of others."""
    made = network(16, seed)
    with torch.no_grad():
        made.fc.weight.mul_(20)
    return made


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.02, momentum=0.9)


def distiller(labels, kind=StoredDistiller, **kwargs):
    settings = {"student": network(8), "teacher": teacher(), "losses": {"fkd": FKD()}, "topk": 10}
    return kind(labels=str(labels), optimizer=sgd, **{"input_shape": (1, 8, 8)} | settings | kwargs)


def live(**kwargs):
    """The same training with the teacher asked at each step."""
    losses = {"kd": KD(temperature=1.0)}
    settings = {"teacher": teacher(), "losses": losses, "optimizer": sgd, "input_shape": (1, 8, 8)}
    return Distiller(student=network(8), **settings | kwargs)


def trainer(folder, *callbacks, **kwargs):
    settings = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "max_epochs": EPOCHS,
        "limit_val_batches": 0,
        "default_root_dir": folder,
    }
    return L.Trainer(callbacks=list(callbacks), **settings | kwargs)


def weights(module):
    return {name: value.detach().clone() for name, value in module.student.state_dict().items()}


def ask(folder):
    """Makes labels, and says which views this process asked the teacher about."""
    views, answers = [], make.answers
    make.answers = lambda data, part, teacher, view, *rest: (
        views.append(view) or answers(data, part, teacher, view, *rest)
    )
    make_labels(f"{folder}/labels", data(), teacher(), 3)
    return views


def fit(folder, labels, strategy="auto"):
    """A whole training from stored answers."""
    module = distiller(labels)
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    run = trainer(folder, devices=ranks, strategy=strategy, limit_val_batches=1.0)
    run.fit(module, data(batch_size=BATCH // ranks))
    state = {
        name: value.full_tensor() if hasattr(value, "full_tensor") else value for name, value in weights(module).items()
    }
    return {"weights": state, "val": {k: v.item() for k, v in run.callback_metrics.items() if k.startswith("val/")}}
