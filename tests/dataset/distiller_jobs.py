"""What the processes of ``test_distiller.py`` do; see ``distributed/jobs.py``."""

import os
import signal
from functools import partial

import lightning as L
import torch

from lit_distill.callbacks import Schedule  # noqa: F401 -- imports what a process needs once
from lit_distill.cli.checkpoint import Checkpoint
from lit_distill.data import ClassBatches, Digits
from lit_distill.dataset import DatasetDistiller, DistributionMatching, Fresh, Pixels, SiameseAugmentation
from lit_distill.models import CondensationConvNet

NETWORK = partial(CondensationConvNet, input_shape=(1, 8, 8), width=4, depth=2)


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


def fit(folder, resume=None, kill=None, steps=7, seed=0, **parts):
    """Distils; what the set and the global random numbers are afterwards."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    made = module(**parts)
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
