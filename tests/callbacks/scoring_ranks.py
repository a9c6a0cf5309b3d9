"""Runs that score samples, once on two processes and once on one, in a process of its own that starts no threads."""

import sys
from pathlib import Path

import lightning as L
import torch

sys.path.insert(0, str(Path(__file__).parent))
from scoring import EPOCHS, Numbered, TellEpoch, digits, network, scripted, supervised

from lit_distill.callbacks import EL2N, AugmentationStddev, Forgetting
from lit_distill.data.score_file import load_scores
from lit_distill.distiller import Distiller
from lit_distill.losses import KD


class SaveAfter(L.Callback):
    """A checkpoint in the middle of an epoch."""

    def __init__(self, path, step):
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


class Tell(L.Callback):
    """Writes down what was logged at last."""

    def __init__(self, path):
        self.path = path

    def on_fit_end(self, trainer, pl_module):
        if trainer.is_global_zero:
            torch.save(trainer.callback_metrics["train/teacher_stddev"], self.path)


def trainer(folder, processes, epochs, *callbacks):
    return L.Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp_fork" if processes > 1 else "auto",
        max_epochs=epochs,
        default_root_dir=folder,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        logger=False,
        num_sanity_val_steps=0,
    )


def plain():
    """Nothing in it depends on how a batch is shared."""
    module = supervised()
    module.student[2] = torch.nn.Identity()
    return module


def distiller():
    student = network()
    student[2] = torch.nn.Identity()
    teacher = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    return Distiller(
        student=student,
        teacher=teacher,
        losses={"kd": KD()},
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        input_shape=(1, 8, 8),
    )


def main(folder):
    for processes in (2, 1):
        files = {name: folder / f"{name}-{processes}.safetensors" for name in ("el2n", "forgetting", "resumed")}
        data = digits(batch_size=32 // processes)
        trainer(folder, processes, 2, EL2N(str(files["el2n"]), epoch=2)).fit(plain(), data)

        half = folder / f"{processes}.ckpt"
        for name, ckpt_path in (("forgetting", None), ("resumed", half)):
            callbacks = [Forgetting(str(files[name])), TellEpoch(), SaveAfter(half, 4)]
            data = Numbered(index=True, batch_size=4 // processes, limit=7)  # shares of the last batch differ
            trainer(folder, processes, EPOCHS, *callbacks).fit(scripted(), data, ckpt_path=ckpt_path)

    half = folder / "stddev.ckpt"
    for name, ckpt_path in (("whole", None), ("resumed", half)):
        torch.manual_seed(3)
        callbacks = [AugmentationStddev(30), Tell(folder / f"{name}.pt"), SaveAfter(half, 5)]
        trainer(folder, 2, 3, *callbacks).fit(distiller(), digits(batch_size=16), ckpt_path=ckpt_path)

    targets = digits().read_train().targets
    one, two = (load_scores(folder / f"el2n-{processes}.safetensors", targets) for processes in (1, 2))
    torch.testing.assert_close(two, one, equal_nan=True, rtol=1e-5, atol=1e-6)
    assert one.isfinite().sum() == 100
    counts = [
        load_scores(folder / f"{name}-{processes}.safetensors", Numbered().read_train().targets).tolist()
        for name in ("forgetting", "resumed")
        for processes in (1, 2)
    ]
    torch.save(torch.tensor(counts), folder / "counts.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
