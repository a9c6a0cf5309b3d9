"""What the processes of ``test_distiller.py`` do; see ``distributed/jobs.py``."""

import os
import signal
from functools import partial

import lightning as L
import torch

from lit_distill.callbacks import Schedule  # noqa: F401 -- imports what a process needs once
from lit_distill.cli.checkpoint import Checkpoint
from lit_distill.data import ClassBatches, Digits
from lit_distill.data.mix import CutMix
from lit_distill.dataset import (
    CDA,
    Committee,
    DatasetDistiller,
    DistributionMatching,
    FRePo,
    Fresh,
    GradientMatching,
    LearnedLabels,
    MultiFormation,
    Pixels,
    Pool,
    SiameseAugmentation,
    TrainedOnReal,
    TrainedOnSynthetic,
)
from lit_distill.models import CondensationConvNet
from lit_distill.models.random_weights import seeded

NETWORK = partial(CondensationConvNet, input_shape=(1, 8, 8), width=4, depth=2)


def frepo():
    return {
        "synthetic": LearnedLabels(images_per_class=2),
        "objective": FRePo(),
        "networks": Pool(NETWORK, size=2, updates=2),
        "augment": None,
        "optimizer": partial(
            torch.optim.SGD, lr=1.0, momentum=0.5
        ),  # Adam makes much of rounding where gradients are 0
    }


def cv_dd():
    teachers = {str(seed): seeded(partial(NETWORK, norm="batch"), seed) for seed in range(3)}
    return {
        "synthetic": Pixels(images_per_class=3, init="noise", clip=True),
        "objective": CDA(curriculum=5, jitter=2, tv_weight=1e-3, l2_weight=1e-3),
        "networks": Committee(teachers, prior={"0": 60.0, "1": 65.0, "2": 70.0}, voters=2),
        "augment": None,
        "optimizer": partial(torch.optim.SGD, lr=0.5, momentum=0.5),
    }


def dc():
    """On networks with BatchNorm, which see real images of the classes of all processes."""
    return {
        "objective": GradientMatching(),
        "networks": TrainedOnSynthetic(partial(NETWORK, norm="batch"), steps=3, epochs=2, batch_size=8),
        "optimizer": partial(torch.optim.SGD, lr=0.1, momentum=0.5),
    }


def idc():
    return {
        "synthetic": MultiFormation(images_per_class=1, factor=3),
        "objective": GradientMatching("absolute", weights="convolutions"),
        "networks": TrainedOnReal(NETWORK, steps=3, images=30, mix=CutMix(), batch_size=8),
        "augment": SiameseAugmentation("color_crop_cutout"),
        "optimizer": partial(torch.optim.SGD, lr=0.05, momentum=0.5),
    }


METHODS = {"dm": dict, "frepo": frepo, "cv_dd": cv_dd, "dc": dc, "idc": idc}


class Killed(L.Callback):
    """Ends the process hard."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def module(**parts):
    arguments = {
        "synthetic": Pixels(images_per_class=2),
        "objective": DistributionMatching(),
        "networks": Fresh(NETWORK),
        "augment": SiameseAugmentation(),
        "optimizer": partial(torch.optim.SGD, lr=1.0, momentum=0.5),
    }
    return DatasetDistiller(**(arguments | parts))


def fit(folder, resume=None, kill=None, steps=7, seed=0, method="dm", **parts):
    """Distils; what the set and the global random numbers are afterwards."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    made = module(**METHODS[method](), **parts)
    torch.manual_seed(5)
    before = torch.get_rng_state()
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
        callbacks=[Checkpoint(folder, save_last=True, every_n_train_steps=2), *([Killed(kill)] if kill else [])],
    )
    trainer.fit(made, ClassBatches(Digits(limit=200), per_class=5, seed=seed), ckpt_path=resume)
    return {
        "synthetic": {name: value.clone() for name, value in made.synthetic.state_dict().items()},
        "untouched": torch.equal(before, torch.get_rng_state()),
    }
