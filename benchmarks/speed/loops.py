"""The same training of the same student, as a bare loop, with lit_distill and with torchdistill.

Each class is made for a pair of networks, and ``run(data)`` trains on ``data`` once and returns the last loss.
"""

import argparse
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

import lightning as L
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, SequentialSampler

from lit_distill import Distiller
from lit_distill.callbacks.performance import ChannelsLast
from lit_distill.losses import KD, CrossEntropy
from lit_distill.models import resnet8x4, resnet32x4

CLASSES = 100
TEMPERATURE, KD_WEIGHT, CE_WEIGHT = 4.0, 0.9, 0.1
SGD = {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}

Data = Dataset[tuple[Tensor, Tensor]]


class Pair(NamedTuple):
    title: str
    student: Callable[[], nn.Module]
    teacher: Callable[[], nn.Module]
    batch: int
    side: int
    repeat: int = 1  # times --steps: a round must last long enough to be timed

    def networks(self) -> tuple[nn.Module, nn.Module]:
        torch.manual_seed(0)
        return self.student(), self.teacher().eval().requires_grad_(False)


def perceptron(width: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, width), nn.ReLU(), nn.Linear(width, CLASSES))


PAIRS = {
    "cifar": Pair("ResNet-8x4 from ResNet-32x4, 32x32, batch 64", resnet8x4, resnet32x4, 64, 32),
    "timm": Pair(
        "timm resnet18 from resnet34, 224x224, batch 8",
        lambda: timm.create_model("resnet18", num_classes=CLASSES),
        lambda: timm.create_model("resnet34", num_classes=CLASSES),
        8,
        224,
    ),
    "tiny": Pair("Two linear layers: what a loop costs", lambda: perceptron(16), lambda: perceptron(32), 16, 8, 50),
}


def autocast(args: argparse.Namespace) -> AbstractContextManager[None]:
    return torch.autocast(args.device, torch.bfloat16, enabled=args.precision == "bf16-mixed")


class Bare:
    """The loop that one would write without a library."""

    name = "bare PyTorch loop"

    def __init__(self, pair: Pair, args: argparse.Namespace) -> None:
        self.args = args
        layout = torch.channels_last if args.channels_last else torch.preserve_format
        student, teacher = pair.networks()
        self.student = student.to(args.device, memory_format=layout)
        self.teacher = teacher.to(args.device, memory_format=layout)

    def run(self, data: Data) -> float:
        optimizer = torch.optim.SGD(self.student.parameters(), **SGD)
        self.student.train()
        for x, y in DataLoader(data, batch_size=None):
            with autocast(self.args):
                with torch.no_grad():
                    teacher = self.teacher(x)
                student = self.student(x)
            student, teacher = student.float(), teacher.float()
            log_q = F.log_softmax(student / TEMPERATURE, dim=1)
            log_p = F.log_softmax(teacher / TEMPERATURE, dim=1)
            kd = F.kl_div(log_q, log_p, reduction="batchmean", log_target=True) * TEMPERATURE**2
            loss = KD_WEIGHT * kd + CE_WEIGHT * F.cross_entropy(student, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.item()


class Ours:
    """Distiller in Lightning's Trainer: it logs the loss, its terms and the accuracy at every step."""

    name = "lit_distill"

    def __init__(self, pair: Pair, args: argparse.Namespace) -> None:
        student, teacher = pair.networks()
        self.module = Distiller(
            student=student,
            teacher=teacher,
            losses={"kd": KD(weight=KD_WEIGHT, temperature=TEMPERATURE), "ce": CrossEntropy(weight=CE_WEIGHT)},
            optimizer=lambda parameters: torch.optim.SGD(parameters, **SGD),
            input_shape=(3, pair.side, pair.side),
        )
        self.settings = {
            "accelerator": "gpu" if args.device == "cuda" else "cpu",
            "precision": args.precision,
            "callbacks": [ChannelsLast()] if args.channels_last else [],
        }

    def run(self, data: Data) -> float:
        off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
        trainer = L.Trainer(max_epochs=1, devices=1, **self.settings, **off)
        trainer.fit(self.module, DataLoader(data, batch_size=None))
        return trainer.callback_metrics["train/loss"].item()


class OursTuned(Ours):
    """The same with the settings of configs/trainer/cpu.yaml."""

    name = "lit_distill, bf16-mixed and channels-last"

    def __init__(self, pair: Pair, args: argparse.Namespace) -> None:
        super().__init__(pair, argparse.Namespace(device=args.device, precision="bf16-mixed", channels_last=True))


class Torchdistill(Bare):
    """A DistillationBox driven as in torchdistill's own example of image classification.

    That library leaves the mode of the teacher to its user; here it is in eval mode, as for the others.
    """

    name = "torchdistill"

    def run(self, data: Data) -> float:
        from torchdistill.core.distillation import get_distillation_box
        from torchdistill.misc.log import MetricLogger, SmoothedValue

        kd = {"temperature": TEMPERATURE, "alpha": CE_WEIGHT, "beta": KD_WEIGHT}
        for network in ("student", "teacher"):
            kd |= {f"{network}_module_path": ".", f"{network}_module_io": "output"}
        terms = {"kd": {"criterion": {"key": "KDLoss", "kwargs": kd}, "weight": 1.0}}
        sampler = {"class_or_func": SequentialSampler, "kwargs": None}
        config = {
            "num_epochs": 1,
            "train_data_loader": {"dataset_id": "train", "sampler": sampler, "kwargs": {"batch_size": None}},
            "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
            "student": {"forward_proc": "forward_batch_only", "requires_grad": True},
            "optimizer": {"key": "SGD", "kwargs": dict(SGD)},
            "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": terms}},
        }
        device = torch.device(self.args.device)
        box = get_distillation_box(self.teacher, self.student, {"train": data}, config, device, None, False, 1)
        box.pre_epoch_process(epoch=0)
        metrics = MetricLogger(delimiter="  ")
        metrics.add_meter("lr", SmoothedValue(window_size=1, fmt="{value}"))
        metrics.add_meter("img/s", SmoothedValue(window_size=10, fmt="{value}"))
        for x, y, supplement in metrics.log_every(box.train_data_loader, 100, "Epoch: [0]"):
            start = time.time()
            with autocast(self.args):
                loss = box.forward_process(x.to(device), y.to(device), supplement)
            box.post_forward_process(loss=loss)
            metrics.update(loss=loss.item(), lr=box.optimizer.param_groups[0]["lr"])
            metrics.meters["img/s"].update(len(x) / (time.time() - start))
        return loss.item()


LOOPS: dict[str, type[Bare] | type[Ours]] = {
    "bare": Bare,
    "ours": Ours,
    "torchdistill": Torchdistill,
    "tuned": OursTuned,
}
