"""What one training step of knowledge distillation costs: a bare PyTorch loop, lit_distill, torchdistill.

All train the same student from the same teacher on the same batches in memory, in one process and in turns, so that
whatever else the machine does hits all alike; that they do the same work is checked on their losses first.

    python benchmarks/speed/step.py --threads 1

Writes benchmarks/speed/results.md. torchdistill is left out where it is not installed; see benchmarks/README.md.
"""

import argparse
import copy
import logging
import os
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

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

TEMPERATURE, KD_WEIGHT, CE_WEIGHT = 4.0, 0.9, 0.1
SGD = {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
SKIP = 2  # steps at the start of every round that no clock sees: they allocate the optimizer's state
TOLERANCE = 1e-5

# Name: student, teacher, batch size, side of the image.
PAIRS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module], int, int]] = {
    "cifar": (resnet8x4, resnet32x4, 64, 32),
    "timm": (
        lambda: timm.create_model("resnet18", num_classes=100),
        lambda: timm.create_model("resnet34", num_classes=100),
        8,
        224,
    ),
}
TITLES = {
    "cifar": "ResNet-8x4 from ResNet-32x4, 32x32, batch 64",
    "timm": "timm resnet18 from resnet34, 224x224, batch 8",
}


class Batches(Dataset):
    """Batches in memory; the clock is read when batch ``SKIP`` is taken and when the last one is."""

    def __init__(self, pair: str, steps: int, args: argparse.Namespace) -> None:
        generator = torch.Generator().manual_seed(1)
        _, _, size, side = PAIRS[pair]
        shape = (size, 3, side, side)
        self.device = torch.device(args.device)
        self.batches = [
            tuple(
                t.to(self.device)
                for t in (
                    torch.randn(shape, generator=generator),
                    torch.randint(100, (size,), generator=generator),
                )
            )
            for _ in range(SKIP + steps + 1)
        ]
        self.clock = time.process_time if args.clock == "cpu" else time.perf_counter
        self.steps = steps
        self.started = self.per_step = 0.0

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, i: int) -> tuple[Tensor, ...]:
        if i in (SKIP, len(self) - 1):
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            now = self.clock()
            self.per_step, self.started = (now - self.started) / self.steps, now
        return self.batches[i]


def networks(pair: str) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return PAIRS[pair][0](), PAIRS[pair][1]().eval().requires_grad_(False)


def autocast(args: argparse.Namespace) -> AbstractContextManager[None]:
    return torch.autocast(args.device, torch.bfloat16, enabled=args.precision == "bf16-mixed")


class Bare:
    """The loop that one would write without any library."""

    name = "bare PyTorch loop"

    def __init__(self, pair: str, args: argparse.Namespace) -> None:
        self.args = args
        self.student, self.teacher = (network.to(args.device) for network in networks(pair))
        if args.channels_last:
            self.student.to(memory_format=torch.channels_last)
            self.teacher.to(memory_format=torch.channels_last)

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
    """Distiller in Lightning's Trainer; logger, progress bar and checkpoints are off, metrics are on."""

    name = "lit_distill"

    def __init__(self, pair: str, args: argparse.Namespace) -> None:
        self.args = args
        student, teacher = networks(pair)
        self.module = Distiller(
            student=student,
            teacher=teacher,
            losses={"kd": KD(weight=KD_WEIGHT, temperature=TEMPERATURE), "ce": CrossEntropy(weight=CE_WEIGHT)},
            optimizer=lambda parameters: torch.optim.SGD(parameters, **SGD),
            input_shape=(3, PAIRS[pair][3], PAIRS[pair][3]),
        )

    def run(self, data: Batches) -> float:
        trainer = L.Trainer(
            accelerator="gpu" if self.args.device == "cuda" else "cpu",
            devices=1,
            precision=self.args.precision,
            max_epochs=1,
            callbacks=[ChannelsLast()] if self.args.channels_last else [],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(self.module, DataLoader(data, batch_size=None))
        return trainer.callback_metrics["train/loss"].item()


class OursTuned(Ours):
    """The same with what configs/trainer/cpu.yaml sets."""

    name = "lit_distill, bf16-mixed + channels-last"

    def __init__(self, pair: str, args: argparse.Namespace) -> None:
        super().__init__(pair, argparse.Namespace(**{**vars(args), "precision": "bf16-mixed", "channels_last": True}))


class Torchdistill:
    """DistillationBox driven as by torchdistill's own example for image classification."""

    name = "torchdistill"

    def __init__(self, pair: str, args: argparse.Namespace) -> None:
        self.args = args
        # The library leaves the teacher's mode to its user, so it comes in eval mode: without that its BatchNorm
        # would see batch statistics, and do more work.
        self.student, self.teacher = networks(pair)
        if args.channels_last:
            self.student.to(memory_format=torch.channels_last)
            self.teacher.to(memory_format=torch.channels_last)

    def run(self, data: Batches) -> float:
        from torchdistill.core.distillation import get_distillation_box
        from torchdistill.misc.log import MetricLogger, SmoothedValue

        device = torch.device(self.args.device)
        logits = {f"{who}_module_{key}": value for who in ("student", "teacher") for key, value in IO.items()}
        kd = {**logits, "temperature": TEMPERATURE, "alpha": CE_WEIGHT, "beta": KD_WEIGHT}
        config = {
            "num_epochs": 1,
            "train_data_loader": {
                "dataset_id": "train",
                "sampler": {"class_or_func": SequentialSampler, "kwargs": None},
                "kwargs": {"batch_size": None},
            },
            "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
            "student": {"forward_proc": "forward_batch_only", "requires_grad": True},
            "optimizer": {"key": "SGD", "kwargs": dict(SGD)},
            "criterion": {
                "key": "WeightedSumLoss",
                "kwargs": {"sub_terms": {"kd": {"criterion": {"key": "KDLoss", "kwargs": kd}, "weight": 1.0}}},
            },
        }
        box = get_distillation_box(self.teacher, self.student, {"train": data}, config, device, None, False, 1)
        box.pre_epoch_process(epoch=0)
        metrics = MetricLogger(delimiter="  ")
        metrics.add_meter("lr", SmoothedValue(window_size=1, fmt="{value}"))
        metrics.add_meter("img/s", SmoothedValue(window_size=10, fmt="{value}"))
        for x, y, supplement in metrics.log_every(box.train_data_loader, 100, "Epoch: [0]"):
            start = time.time()
            x, y = x.to(device), y.to(device)
            with autocast(self.args):
                loss = box.forward_process(x, y, supplement)
            box.post_forward_process(loss=loss)
            metrics.update(loss=loss.item(), lr=box.optimizer.param_groups[0]["lr"])
            metrics.meters["img/s"].update(len(x) / (time.time() - start))
        box.post_epoch_process()
        return loss.item()


IO = {"path": ".", "io": "output"}
CONTENDERS = {"bare": Bare, "ours": Ours, "torchdistill": Torchdistill, "tuned": OursTuned}


def contenders(args: argparse.Namespace) -> dict[str, type]:
    chosen = dict(CONTENDERS)
    try:
        import torchdistill.losses  # noqa: F401
    except ImportError as error:
        print(f"torchdistill is left out: {error}", file=sys.stderr)
        del chosen["torchdistill"]
    if args.precision != "32-true" or args.channels_last:
        del chosen["tuned"]
    return chosen


def memory(key: str, pair: str, args: argparse.Namespace) -> float:
    """MiB that training adds to what a fresh process of this contender holds at its peak."""
    command = [sys.executable, __file__, "--memory", key, "--pairs", pair, "--threads", str(args.threads)]
    command += ["--precision", args.precision, "--device", args.device] + ["--channels-last"] * args.channels_last
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])


def measure_memory(args: argparse.Namespace) -> None:
    contender, data = CONTENDERS[args.memory](args.pairs, args), Batches(args.pairs, 2, args)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    contender.run(data)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(torch.cuda.max_memory_allocated() / 2**20 if args.device == "cuda" else grown)


def compare(pair: str, args: argparse.Namespace) -> list[str]:
    """One table: every contender in turn, again and again, each round beginning with another one."""
    data = Batches(pair, args.steps, args)
    field = {key: make(pair, args) for key, make in contenders(args).items()}
    losses = {key: contender.run(data) for key, contender in field.items()}  # warm-up, and proof of equal work
    for key, loss in losses.items():
        print(f"{pair}: {field[key].name}: loss {loss:.8f} after {len(data)} steps", file=sys.stderr)
        if key != "tuned" and args.precision == "32-true" and abs(loss / losses["bare"] - 1) > TOLERANCE:
            raise SystemExit(f"{pair}: {field[key].name} does other work than the bare loop: losses {losses}")
    times: dict[str, list[float]] = {key: [] for key in field}
    keys = list(field)
    for i in range(args.rounds):
        for key in keys[i % len(keys) :] + keys[: i % len(keys)]:
            field[key].run(data)
            times[key].append(1000 * data.per_step)
    rows = ["| | ms a step: median (quartiles) | over the bare loop: median (quartiles) | peak memory, MiB |"]
    rows += ["|---|---|---|---|"]
    for key, values in times.items():
        ratios = [value / bare for value, bare in zip(values, times["bare"], strict=True)]
        used = f"{memory(key, pair, args):.0f}"
        rows.append(f"| {field[key].name} | {spread(values, 1)} | {spread(ratios, 3)} | {used} |")
        print(rows[-1], file=sys.stderr)
    return [f"## {TITLES[pair]}", "", *rows, ""]


def spread(values: list[float], digits: int) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", default="cifar,timm", help="which of cifar, timm; comma-separated")
    parser.add_argument("--steps", type=int, default=8, help="timed steps a round")
    parser.add_argument("--rounds", type=int, default=15, help="rounds")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of PyTorch")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["32-true", "bf16-mixed"], default="32-true", help="of every row")
    parser.add_argument("--channels-last", action="store_true", help="in every row")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: blind to other programs' load")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.md"))
    parser.add_argument("--memory", choices=CONTENDERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    if args.memory:
        return measure_memory(args)
    machine = f"{os.cpu_count()} CPU cores" if args.device == "cpu" else "1 GPU"
    setting = f"{args.precision}{', channels-last' * args.channels_last}, {args.threads} threads, {machine}"
    versions = (
        f"torch {torch.__version__.split('+')[0]}, lightning {L.__version__}, lit_distill {lit_distill.__version__}"
    )
    lines = ["# One training step of knowledge distillation", "", f"{setting}; {versions}; {args.clock} time.", ""]
    lines += [f"{args.rounds} rounds of {args.steps} steps each, in turns; by `benchmarks/speed/step.py`.", ""]
    for pair in args.pairs.split(","):
        lines += compare(pair, args)
    args.out.write_text("\n".join(lines))
    print("\n".join(lines))
    return None


if __name__ == "__main__":
    main()
