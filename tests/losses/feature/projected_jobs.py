"""Small trainings with the terms that have parameters of their own, which tests share among processes."""

import os

import lightning as L
import torch
from torch import nn

from lit_distill.core import strategies  # noqa: F401 (makes fsdp2 known)
from lit_distill.data import Digits
from lit_distill.distiller import Distiller
from lit_distill.losses import AB, OFD, SRRL, VID, CrossEntropy, ReviewKD, SimKD
from lit_distill.models import ConvNet
from lit_distill.models.reused_classifier import ReusedClassifier

SAMPLES, BATCH, SHAPE = 21, 8, (1, 8, 8)


def teacher():
    """With BatchNorm, which OFD needs, and which in eval mode does not look at its batch."""
    torch.manual_seed(1)
    network = ConvNet(in_channels=1, width=16, depth=2)
    for norm in (network.blocks[0].norm, network.blocks[1].norm):
        nn.init.normal_(norm.bias)
    return network


def student():
    torch.manual_seed(2)
    return ConvNet(in_channels=1, width=8, depth=2, norm="group")


def without_batch_norm(network):
    """Group normalisation in place of batch normalisation, which sees the samples of each rank alone."""
    for name, child in network.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(network, name, nn.GroupNorm(1, child.num_features))
        without_batch_norm(child)


def module(simkd):
    if simkd:
        learner, losses = ReusedClassifier(student(), teacher(), SHAPE), {"simkd": SimKD()}
    else:
        terms = {"vid": VID(), "ofd": OFD(), "ab": AB(), "review": ReviewKD(), "srrl": SRRL()}
        learner, losses = student(), {"ce": CrossEntropy(), **terms}
    torch.manual_seed(0)
    made = Distiller(
        student=learner,
        teacher=teacher(),
        losses=losses,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.02, momentum=0.9),
        input_shape=SHAPE,
    )
    without_batch_norm(made.losses)
    without_batch_norm(made.student)
    return made


def train(folder, strategy="auto", simkd=False):
    """What is learnt in three epochs, whose last batches two ranks share unequally."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    model = module(simkd)
    run = L.Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy=strategy,
        max_epochs=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        default_root_dir=folder,
    )
    run.fit(model, Digits(limit=SAMPLES, batch_size=BATCH // ranks))
    state = model.state_dict()
    return {k: (v.full_tensor() if hasattr(v, "full_tensor") else v).detach().clone() for k, v in state.items()}
