"""A small training with two teachers, which tests share among processes."""

import os

import lightning as L
import torch

from lit_distill.core import strategies  # noqa: F401 (makes fsdp2 known)
from lit_distill.data import Digits
from lit_distill.distiller import Distiller
from lit_distill.losses import UNIC, CrossEntropy
from lit_distill.models import ConvNet, Ensemble

SAMPLES, BATCH, STEPS = 24, 8, 3


def network(width):
    return ConvNet(in_channels=1, width=width, depth=2, norm="group")


def module():
    torch.manual_seed(0)
    return Distiller(
        student=network(8),
        teacher=Ensemble({"wide": network(16), "narrow": network(12)}),
        losses={"ce": CrossEntropy(), "unic": UNIC(drop=0.0)},  # draws differ from rank to rank
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
        input_shape=(1, 8, 8),
    )


def train(folder, strategy="auto"):
    """Weights and statistics of the teachers after all steps."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    model = module()
    run = L.Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy=strategy,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        default_root_dir=folder,
    )
    run.fit(model, Digits(limit=SAMPLES, batch_size=BATCH // ranks))
    assert run.global_step == STEPS
    weights = {
        name: (p.full_tensor() if hasattr(p, "full_tensor") else p).detach().clone()
        for name, p in model.named_parameters()
        if p.requires_grad
    }
    unic = model.losses["unic"]
    scales = [scale.get_extra_state() for scales in (unic.class_scales, unic.patch_scales) for scale in scales]
    return {"weights": weights, "scales": scales}
