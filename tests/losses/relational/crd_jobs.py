"""A small training with CRD, which tests interrupt and share among processes."""

import os

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_distill.core import strategies  # noqa: F401 (makes fsdp2 known)
from lit_distill.data import Digits
from lit_distill.distiller import Distiller
from lit_distill.losses import CRD, CrossEntropy
from lit_distill.models import ConvNet

SAMPLES, BATCH, EPOCHS, STEPS = 21, 8, 2, 6
CHECKPOINT = "step=4.ckpt"


def network(width):
    return ConvNet(in_channels=1, width=width, depth=2, norm="group")


def module():
    torch.manual_seed(0)
    losses = {"ce": CrossEntropy(), "crd": CRD(samples=1797, embedding=8, negatives=50, weight=0.1)}
    return Distiller(
        student=network(8),
        teacher=network(16),
        losses=losses,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
        input_shape=(1, 8, 8),
    )


def train(folder, strategy="auto", resume=None):
    """Weights and memory after all steps, perhaps resumed from a checkpoint; writes one in ``folder``."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    model = module()
    run = L.Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy=strategy,
        max_epochs=EPOCHS,
        logger=False,
        callbacks=[ModelCheckpoint(folder, filename="{step}", every_n_train_steps=4, save_top_k=-1)],
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        default_root_dir=folder,
    )
    run.fit(model, Digits(limit=SAMPLES, batch_size=BATCH // ranks, index=True), ckpt_path=resume)
    assert run.global_step == STEPS
    weights = {
        name: (p.full_tensor() if hasattr(p, "full_tensor") else p).detach().clone()
        for name, p in model.named_parameters()
        if p.requires_grad
    }
    return {"weights": weights, "memory": model.losses["crd"].banks.get_extra_state()}
