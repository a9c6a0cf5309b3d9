"""What the processes of ``test_self_distillation.py`` do; see ``jobs.py``."""

import os

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_distill.callbacks import LinearProbe, MomentumTeacher
from lit_distill.data import Digits
from lit_distill.distiller import Distiller
from lit_distill.losses import KD, CrossEntropy
from lit_distill.models import ConvNet, seeded


def whole(value):
    return (value.full_tensor() if hasattr(value, "full_tensor") else value).detach().clone()


def fit(folder, strategy="auto", norm="group", ckpt_path=None):
    """A whole training: its student, the teacher, and what validation says."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    student, teacher = (seeded(lambda: ConvNet(in_channels=1, width=8, depth=2, norm=norm), seed) for seed in (0, 1))
    module = Distiller(
        student=student,
        teacher=teacher,
        losses={"ce": CrossEntropy(), "kd": KD()},
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.02, momentum=0.9),
        input_shape=(1, 8, 8),
    )
    # after four of six steps, in the middle of an epoch
    middle = ModelCheckpoint(folder, filename="middle", every_n_train_steps=4)
    run = L.Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy=strategy,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=2,
        default_root_dir=folder,
        callbacks=[MomentumTeacher(decay=0.9, end=1.0), LinearProbe(), LinearProbe(network="teacher"), middle],
    )
    run.fit(module, Digits(limit=21, batch_size=8 // ranks, augment=True), ckpt_path=ckpt_path)
    return {
        "student": {name: whole(value) for name, value in module.student.state_dict().items()},
        "teacher": {name: whole(value) for name, value in module.teacher.module.state_dict().items()},
        "validation": {k: v.item() for k, v in run.callback_metrics.items() if k.startswith("val/")},
    }
