"""A small training with CRD, which tests interrupt and share among processes."""

import os
from pathlib import Path

import lightning as L
import torch

from lit_distill.core import strategies  # noqa: F401 (makes fsdp2 known)
from lit_distill.data import Digits
from lit_distill.distiller import Distiller
from lit_distill.losses import CRD, CrossEntropy
from lit_distill.models import ConvNet

SAMPLES, BATCH, STEPS = 21, 8, 9


def network(width):
    return ConvNet(in_channels=1, width=width, depth=2, norm="group")


def module():
    torch.manual_seed(0)
    losses = {"ce": CrossEntropy(), "crd": CRD(samples=1797, embedding=8, negatives=50, weight=0.1)}
    return Distiller(
        student=network(8),
        teacher=network(16),
        losses=losses,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
        input_shape=(1, 8, 8),
    )


def train(folder, strategy="auto", steps=STEPS, resume=None, save=None):
    """Weights and memory after ``steps``, perhaps resumed from a checkpoint; ``save`` names one to write."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    model = module()
    run = L.Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy=strategy,
        max_epochs=-1,
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        default_root_dir=folder,
    )
    run.fit(model, Digits(limit=SAMPLES, batch_size=BATCH // ranks, index=True), ckpt_path=resume)
    if save:
        run.save_checkpoint(Path(folder, save))
    weights = {
        name: (p.full_tensor() if hasattr(p, "full_tensor") else p).detach().clone()
        for name, p in model.named_parameters()
        if p.requires_grad
    }
    return {"weights": weights, "memory": model.losses["crd"].banks.get_extra_state()}
