"""Runs whose samples are scored, small enough to be counted by hand."""

import lightning as L
import torch
from torch import nn

from lit_distill.data import Digits
from lit_distill.data.tensor_data import TensorData, TensorImages
from lit_distill.supervised import Supervised

# One line a sample, one column an epoch: was the answer right when it came up?
RIGHT = ("1111", "0000", "1010", "0110", "0011", "1001", "0101", "1000")
# From right to wrong, or the number of epochs where it was never right.
FORGOTTEN = [0, 4, 2, 1, 0, 1, 1, 1]
EPOCHS = 4


class Numbered(TensorData):
    """Images whose one pixel is their position, in three classes; validation is nothing that was trained on."""

    num_classes = 3
    input_shape = (1, 1, 1)
    mean, std = (0.0,), (1 / 255,)
    padding, flip = 0, False

    def read(self, part):
        size = len(RIGHT)
        return TensorImages(torch.arange(size, dtype=torch.uint8).view(size, 1, 1, 1), torch.arange(size) % 3)

    def read_val(self):
        return self.read("val")


class Scripted(nn.Module):
    """Answers right or wrong as the script says; one parameter, so that there is something to train."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("right", torch.tensor([[int(c) for c in line] for line in RIGHT]))
        self.epoch = 0

    def forward(self, x):
        position = x.flatten().round().long()
        wrong = 1 - self.right[position, self.epoch]
        return self.scale * nn.functional.one_hot((position + wrong) % 3, 3).float()


class TellEpoch(L.Callback):
    """Tells the scripted network which epoch it is."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        pl_module.student.epoch = min(trainer.current_epoch, EPOCHS - 1)


def scripted():
    return Supervised(
        student=Scripted(), optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e-3), input_shape=(1, 1, 1)
    )


def network(dropout=0.0):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 10)
    )


def supervised(lr=0.1, **kwargs):
    return Supervised(
        student=network(**kwargs),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=lr),
        input_shape=(1, 8, 8),
    )


def digits(**kwargs):
    return Digits(**{"limit": 100, "batch_size": 32} | kwargs)
