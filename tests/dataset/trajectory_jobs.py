"""What the processes of ``test_trajectory.py`` do; see ``distributed/jobs.py``."""

import os
from functools import partial

import lightning as L
import torch

from lit_distill.callbacks import Schedule  # noqa: F401 -- imports what a process needs once
from lit_distill.cli.checkpoint import Checkpoint
from lit_distill.data import ClassBatches, Digits
from lit_distill.dataset import (
    AST,
    DATM,
    DD,
    MTT,
    DatasetDistiller,
    Experts,
    ExpertTraining,
    Fresh,
    LearnedLogits,
    Pixels,
    SiameseAugmentation,
)
from lit_distill.models import CondensationConvNet

NETWORK = partial(CondensationConvNet, input_shape=(1, 8, 8), width=4, depth=2)

METHODS = {
    "mtt": (MTT, {"step_size_lr": 1e-4}),
    "datm": (DATM, {"step_size_lr": 1e-4, "threshold": 0.9}),
    "ast": (AST, {"step_size": 0.002}),
}


def distiller(method, folder, per_step=2, **arguments):
    parts = {
        "synthetic": LearnedLogits(2, label_lr=0.5) if method == "datm" else Pixels(2),
        "augment": SiameseAugmentation("crop_scale"),
        "optimizer": partial(torch.optim.SGD, lr=1.0, momentum=0.5),
    }
    if method == "dd":
        return DatasetDistiller(objective=DD(epochs=2, **arguments), networks=Fresh(NETWORK), **parts)
    kind, given = METHODS[method]
    training = ExpertTraining(epochs=4, lr=0.05, batch_size=32)
    networks = Experts(NETWORK, f"{folder}/experts", training, count=3, length=2, per_step=per_step)
    objective = kind(**({"steps": 4, "batch_size": 15} | given | arguments))
    return DatasetDistiller(objective=objective, networks=networks, **parts)


def fit(folder, method, resume=None, steps=4, **arguments):
    """Distils; what was learned, and the last loss."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    module = distiller(method, folder, **arguments)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy="ddp" if ranks > 1 else "auto",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_steps=steps,
        max_epochs=-1,
        default_root_dir=folder,
        callbacks=[Checkpoint(folder, save_last=True, every_n_train_steps=2)],
    )
    trainer.fit(module, ClassBatches(Digits(limit=400), per_class=5), ckpt_path=resume)
    return {
        "learned": {name: value.clone() for name, value in module.state_dict().items() if torch.is_tensor(value)},
        "loss": trainer.callback_metrics["train/loss"].clone(),
    }
