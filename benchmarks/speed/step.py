"""What a training step of knowledge distillation costs: a bare PyTorch loop, lit_distill and torchdistill.

All train the same student from the same teacher on the same batches in memory, in one process and in turns, so that
whatever else the machine does hits all alike. That they do the same work is checked on their losses first.

    python benchmarks/speed/step.py --threads 1

writes benchmarks/speed/results.md. torchdistill is left out where it is not installed: see benchmarks/README.md.
"""

import argparse
import logging
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import lightning as L
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, SequentialSampler

import lit_distill
from lit_distill import Distiller
from lit_distill.callbacks.performance import ChannelsLast
from lit_distill.losses import KD, CrossEntropy
from lit_distill.models import resnet8x4, resnet32x4

CLASSES = 100
TEMPERATURE, KD_WEIGHT, CE_WEIGHT = 4.0, 0.9, 0.1
SGD = {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
TOLERANCE = 1e-5  # of the losses of two loops after the same steps, relative


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
    "tiny": Pair("Two linear layers: the fixed cost", lambda: perceptron(16), lambda: perceptron(32), 16, 8, 100),
}


class Batches(Dataset):
    """Batches in memory. The clock is read when the second is taken and when the last one is."""

    def __init__(self, pair: Pair, steps: int, args: argparse.Namespace) -> None:
        generator = torch.Generator().manual_seed(1)
        self.batches: list[tuple[Tensor, Tensor]] = []
        for _ in range(steps + 2):
            x = torch.randn(pair.batch, 3, pair.side, pair.side, generator=generator)
            y = torch.randint(CLASSES, (pair.batch,), generator=generator)
            self.batches.append((x.to(args.device), y.to(args.device)))
        self.clock = time.process_time if args.clock == "cpu" else time.perf_counter
        self.cuda = args.device == "cuda"
        self.steps = steps
        self.read = self.step_ms = 0.0

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        if i in (1, len(self) - 1):  # the first step allocates the optimizer's state and is not timed
            if self.cuda:
                torch.cuda.synchronize()
            now = self.clock()
            self.step_ms, self.read = 1000 * (now - self.read) / self.steps, now
        return self.batches[i]


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

    def run(self, data: Batches) -> float:
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

    def run(self, data: Batches) -> float:
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

    def run(self, data: Batches) -> float:
        from torchdistill.core.distillation import get_distillation_box
        from torchdistill.misc.log import MetricLogger, SmoothedValue

        logits = {
            f"{who}_module_{key}": at for who in ("student", "teacher") for key, at in (("path", "."), ("io", "output"))
        }
        kd = {**logits, "temperature": TEMPERATURE, "alpha": CE_WEIGHT, "beta": KD_WEIGHT}
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


CONTENDERS: dict[str, type] = {"bare": Bare, "ours": Ours, "torchdistill": Torchdistill, "tuned": OursTuned}


def contenders(args: argparse.Namespace) -> list[str]:
    keys = list(CONTENDERS)
    try:
        import torchdistill.losses  # noqa: F401
    except ImportError as error:
        print(f"torchdistill is left out: {error}", file=sys.stderr)
        keys.remove("torchdistill")
    if args.precision != "32-true" or args.channels_last:
        keys.remove("tuned")
    return keys


def compare(name: str, args: argparse.Namespace) -> list[str]:
    """One table: every contender in turn, again and again; each round begins with another one."""
    pair = PAIRS[name]
    data = Batches(pair, args.steps * pair.repeat, args)
    field = {key: CONTENDERS[key](pair, args) for key in contenders(args)}
    losses = {key: contender.run(data) for key, contender in field.items()}
    print(f"{name}: losses after {len(data)} steps: {losses}", file=sys.stderr)
    if args.precision == "32-true":
        for key, loss in losses.items():
            if key != "tuned" and abs(loss / losses["bare"] - 1) > TOLERANCE:
                raise SystemExit(f"{name}: {key} does other work than the bare loop")
    times: dict[str, list[float]] = {key: [] for key in field}
    keys = list(field)
    for i in range(args.rounds):
        for key in keys[i % len(keys) :] + keys[: i % len(keys)]:
            field[key].run(data)
            times[key].append(data.step_ms)
    rows = ["| | ms a step | times the bare loop | memory of training, MiB |", "|---|---|---|---|"]
    for key, values in times.items():
        ratios = [value / bare for value, bare in zip(values, times["bare"], strict=True)]
        extra = statistics.median(value - bare for value, bare in zip(values, times["bare"], strict=True))
        more = f" ({extra:+.2f} ms)" if pair.repeat > 1 else ""
        rows.append(
            f"| {field[key].name} | {spread(values, 2)} | {spread(ratios, 3)}{more} | {memory(key, name, args)} |"
        )
        print(rows[-1], file=sys.stderr)
    return [f"## {pair.title}", "", *rows, ""]


def spread(values: list[float], digits: int) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def memory(key: str, name: str, args: argparse.Namespace) -> str:
    """What training adds to a process of its own, at its peak."""
    command = [sys.executable, __file__, "--memory-of", key, "--pairs", name, "--threads", str(args.threads)]
    command += ["--precision", args.precision, "--device", args.device] + ["--channels-last"] * args.channels_last
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1]


def print_memory(args: argparse.Namespace) -> None:
    pair = PAIRS[args.pairs]
    contender, data = CONTENDERS[args.memory_of](pair, args), Batches(pair, 1, args)
    status = Path("/proc/self/status")
    before = status.read_text() if status.exists() else ""
    contender.run(data)
    if args.device == "cuda":
        print(f"{torch.cuda.max_memory_allocated() / 2**20:.0f}")
    elif before:
        held, peak = before.split("VmRSS:")[1].split()[0], status.read_text().split("VmHWM:")[1].split()[0]
        print(f"{(int(peak) - int(held)) / 1024:.0f}")
    else:
        print("unknown")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", default=",".join(PAIRS), help="comma-separated; default: %(default)s")
    parser.add_argument("--steps", type=int, default=4, help="timed steps a round; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=12, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: %(default)s")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["32-true", "bf16-mixed"], default="32-true", help="of every row")
    parser.add_argument("--channels-last", action="store_true", help="in every row")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: blind to other programs")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.md"))
    parser.add_argument("--memory-of", choices=CONTENDERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.clock == "cpu" and (args.threads, args.device) != (1, "cpu"):
        parser.error("--clock cpu adds the time of all threads up; it takes --threads 1 and --device cpu")
    torch.set_num_threads(args.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    if args.memory_of:
        return print_memory(args)
    versions = [f"{module.__name__} {module.__version__.split('+')[0]}" for module in (torch, L, timm, lit_distill)]
    machine = [f"{os.cpu_count()} CPU cores, {args.threads} used", *["1 GPU"] * (args.device == "cuda")]
    setting = [args.precision, *["channels-last"] * args.channels_last, f"{args.clock} time"]
    lines = ["# A training step of knowledge distillation", "", ", ".join([*machine, *versions, *setting]) + ".", ""]
    lines += [f"Medians [quartiles] of {args.rounds} rounds in turns, by `benchmarks/speed/step.py`.", ""]
    for name in args.pairs.split(","):
        lines += compare(name, args)
    args.out.write_text("\n".join(lines))
    print("\n".join(lines))
    return None


if __name__ == "__main__":
    main()
