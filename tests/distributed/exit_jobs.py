"""What the processes of ``test_exits.py`` do; see ``jobs.py``."""

import os

import lightning as L
import torch
from torch import nn

from lit_distill.callbacks import ExitAccuracy
from lit_distill.data import Digits
from lit_distill.distiller import Distiller
from lit_distill.losses import BYOT, KD, CrossEntropy, Hierarchical
from lit_distill.models import ConvNet, MultiExit


def student():
    """A network with an exit, in which no sample sees the others of its batch."""
    torch.manual_seed(0)
    made = MultiExit(ConvNet(in_channels=1, width=8, depth=2, norm="group"), {"early": "blocks.0"}, (1, 8, 8))
    head = made.exits["early"].net
    for place, module in enumerate(head):
        if isinstance(module, nn.BatchNorm2d):
            head[place] = nn.GroupNorm(2, module.num_features)
    return made


def losses(exits):
    """The terms of each method by its name."""
    if exits == "byot":
        return {"ce": CrossEntropy(), "byot": BYOT(exits=["exits.early"])}
    terms = {"ce": CrossEntropy(), "kd": KD()}
    return {name: Hierarchical(term, exits={"exits.early": 1}, depth=2) for name, term in terms.items()}


def fit(folder, exits, strategy="auto"):
    """A whole training: its weights, and what validation says."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    module = Distiller(
        student=student(),
        losses=losses(exits),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.02, momentum=0.9),
        input_shape=(1, 8, 8),
    )
    start = {name: value.clone() for name, value in module.state_dict().items()}
    run = L.Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy=strategy,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=3,
        default_root_dir=folder,
        callbacks=[ExitAccuracy()],
    )
    run.fit(module, Digits(limit=21, batch_size=8 // ranks, augment=True))
    weights = {k: v.full_tensor() if hasattr(v, "full_tensor") else v for k, v in module.state_dict().items()}
    return {
        "start": start,
        "weights": {name: value.detach().clone() for name, value in weights.items()},
        "validation": {k: v.item() for k, v in run.callback_metrics.items() if k.startswith("val/")},
    }
