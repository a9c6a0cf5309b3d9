"""The least that the callbacks expect of a module, and batches without a DataLoader."""

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch import nn
from torch.nn import functional as F

from lit_distill.core.frozen import Frozen
from lit_distill.losses.base import LogitLoss


class Student(nn.Sequential):
    """Parameters, float and integer buffers, and random numbers in training."""

    def __init__(self):
        super().__init__(nn.Linear(4, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Dropout(0.2), nn.Linear(7, 3))


class CE(LogitLoss):
    def forward(self, student, teacher, target):
        return F.cross_entropy(student, target)


class FakeKD(LogitLoss):
    def __init__(self, temperature=4.0, **kwargs):
        super().__init__(**kwargs)
        self.temperature = temperature

    def forward(self, student, teacher, target):
        s, t = student / self.temperature, teacher / self.temperature
        return F.kl_div(s.log_softmax(1), t.log_softmax(1), log_target=True, reduction="batchmean")


class FakeDistiller(L.LightningModule):
    def __init__(self, seed=0, **losses):
        super().__init__()
        torch.manual_seed(99)
        self.teacher = Frozen(nn.Linear(4, 3))  # always the same: no checkpoint brings it
        torch.manual_seed(seed)
        self.student = Student()
        self.losses = nn.ModuleDict(losses or {"ce": CE(weight=0.3), "kd": FakeKD(weight=0.7)})
        self.last_terms = {}
        self.validated = []

    def training_step(self, batch, batch_idx):
        x, target = batch
        student, teacher = self.student(x), self.teacher(x)
        terms = {name: term(student, teacher, target) for name, term in self.losses.items()}
        self.last_terms = {name: self.losses[name].weight * value for name, value in terms.items()}
        self.log_dict({f"train/{name}": value.detach() for name, value in terms.items()}, prog_bar=True)
        return sum(self.last_terms.values())

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.last_terms = {}

    def validation_step(self, batch, batch_idx):
        self.evaluate(batch, "val")

    def test_step(self, batch, batch_idx):
        self.evaluate(batch, "test")

    def predict_step(self, batch, batch_idx):
        return self.student(batch[0])

    def evaluate(self, batch, stage):
        x, target = batch
        logits, teacher = self.student(x), self.teacher(x)
        self.validated.append(weights(self.student))
        values = {
            "acc": (logits.argmax(1) == target).float().mean(),
            "teacher_acc": (teacher.argmax(1) == target).float().mean(),
            "agreement": (logits.argmax(1) == teacher.argmax(1)).float().mean(),
        }
        self.log_dict({f"{stage}/{name}": value for name, value in values.items()}, batch_size=len(x), prog_bar=True)

    def configure_optimizers(self):
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1, momentum=0.9)


class SaveAfter(Checkpoint):
    """A checkpoint after some epochs, in the middle of a run; Lightning runs it after all other callbacks."""

    def __init__(self, epochs):
        self.epochs = epochs

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch + 1 == self.epochs:
            trainer.save_checkpoint(f"{trainer.default_root_dir}/epochs-{self.epochs}.ckpt")


class Batches:
    """A loader; a plain list would be several to Lightning."""

    def __init__(self, count, size):
        generator = torch.Generator().manual_seed(1)
        self.batches = [
            (torch.randn(size, 4, generator=generator), torch.randint(3, (size,), generator=generator))
            for _ in range(count)
        ]

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


def batches(count=6, size=8):
    return Batches(count, size)


def trainer(folder, *callbacks, **kwargs):
    settings = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": any(isinstance(callback, Checkpoint) for callback in callbacks),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "max_epochs": 2,
        "default_root_dir": folder,
    }
    return L.Trainer(callbacks=list(callbacks), **settings | kwargs)


def weights(module):
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
