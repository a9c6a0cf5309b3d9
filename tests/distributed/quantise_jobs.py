"""What the processes of ``test_quantise_ranks.py`` do; see ``jobs.py``."""

import os

import lightning as L
import torch

from lit_distill.callbacks import FakeQuantise, LearnPoints
from lit_distill.data import Digits
from lit_distill.distiller import Distiller
from lit_distill.losses import KD, CrossEntropy
from lit_distill.models import ConvNet, seeded


def fit(folder, points=False):
    """A whole training and its test: the student, and the accuracies with and without rounding."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    student, teacher = (seeded(lambda: ConvNet(in_channels=1, width=8, depth=2, norm="group"), seed) for seed in (0, 1))
    module = Distiller(
        student=student,
        teacher=teacher,
        losses={"ce": CrossEntropy(), "kd": KD()},
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.02, momentum=0.9),
        input_shape=(1, 8, 8),
    )
    run = L.Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy="auto" if ranks == 1 else "ddp",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=2,
        default_root_dir=folder,
        callbacks=[LearnPoints() if points else FakeQuantise(input_bits=None)],
    )
    data = Digits(limit=21, batch_size=8 // ranks)
    run.fit(module, data)
    (metrics,) = run.test(module, data, verbose=False)
    return {"student": {k: v.detach().clone() for k, v in module.student.state_dict().items()}, "test": metrics}
