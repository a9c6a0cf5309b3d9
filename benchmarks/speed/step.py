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
from pathlib import Path

import lightning as L
import timm
import torch
from loops import CLASSES, LOOPS, PAIRS, Pair
from torch import Tensor
from torch.utils.data import Dataset

import lit_distill

TOLERANCE = 1e-5  # between the losses of two loops after the same steps, relative


class Batches(Dataset[tuple[Tensor, Tensor]]):
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


def contenders(args: argparse.Namespace) -> list[str]:
    names = list(LOOPS)
    try:
        import torchdistill.losses  # noqa: F401
    except ImportError as error:
        print(f"torchdistill is left out: {error}", file=sys.stderr)
        names.remove("torchdistill")
    if args.precision != "32-true" or args.channels_last:
        names.remove("tuned")
    return names


def compare(pair: str, args: argparse.Namespace) -> list[str]:
    """One table: every loop in turn, again and again; each round begins with another one."""
    data = Batches(PAIRS[pair], args.steps * PAIRS[pair].repeat, args)
    loops = {name: LOOPS[name](PAIRS[pair], args) for name in contenders(args)}
    few = Batches(PAIRS[pair], 3, args)
    check({name: loop.run(few) for name, loop in loops.items()}, pair, args)
    times: dict[str, list[float]] = {name: [] for name in loops}
    names = list(loops)
    for i in range(args.rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            loops[name].run(data)
            times[name].append(data.step_ms)
    rows = ["| | ms a step | ms more than the bare loop | times the bare loop | MiB |", "|---|---|---|---|---|"]
    for name, values in times.items():
        pairs = list(zip(values, times["bare"], strict=True))
        more, ratio = spread([value - bare for value, bare in pairs], 2), spread([v / bare for v, bare in pairs], 3)
        beside = "| | " if name == "bare" else f"| {more} | {ratio} "
        rows.append(f"| {loops[name].name} | {spread(values, 2)} {beside}| {memory(name, pair, args)} |")
        print(rows[-1], file=sys.stderr)
    return [f"## {PAIRS[pair].title}", "", *rows, ""]


def check(losses: dict[str, float], pair: str, args: argparse.Namespace) -> None:
    print(f"{pair}: losses after the first steps: {losses}", file=sys.stderr)
    for name, loss in losses.items():
        exact = args.precision == "32-true" and name != "tuned"
        if exact and abs(loss / losses["bare"] - 1) > TOLERANCE:
            raise SystemExit(f"{pair}: {name} does other work than the bare loop")


def spread(values: list[float], digits: int) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def memory(name: str, pair: str, args: argparse.Namespace) -> str:
    """What training adds, at its peak, to a process of its own."""
    command = [sys.executable, __file__, "--memory-of", name, "--pairs", pair, "--threads", str(args.threads)]
    command += ["--precision", args.precision, "--device", args.device] + ["--channels-last"] * args.channels_last
    # glibc then gives each freed tensor back at once: the peak is that of live tensors and repeats to the MiB.
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env).stdout.split()[-1]


def print_memory(args: argparse.Namespace) -> None:
    loop, data = LOOPS[args.memory_of](PAIRS[args.pairs], args), Batches(PAIRS[args.pairs], 1, args)
    status = Path("/proc/self/status")
    before = status.read_text() if status.exists() else ""
    loop.run(data)
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
    parser.add_argument("--memory-of", choices=LOOPS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.clock == "cpu" and (args.threads, args.device) != (1, "cpu"):
        parser.error("--clock cpu adds the time of all threads up; it takes --threads 1 and --device cpu")
    torch.set_num_threads(args.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    if args.memory_of:
        return print_memory(args)
    versions = [f"{module.__name__} {module.__version__.split('+')[0]}" for module in (torch, L, timm, lit_distill)]
    machine = [f"{os.cpu_count()} CPU cores", f"threads {args.threads}", *["1 GPU"] * (args.device == "cuda")]
    setting = [args.precision, *["channels-last"] * args.channels_last, f"{args.clock} time"]
    lines = ["# A training step of knowledge distillation", "", ", ".join([*machine, *versions, *setting]) + ".", ""]
    lines += [f"Medians [quartiles] of {args.rounds} rounds in turns, by `benchmarks/speed/step.py`."]
    lines += ["MiB: what training adds, at its peak, to a process of its own.", ""]
    for pair in args.pairs.split(","):
        lines += compare(pair, args)
    args.out.write_text("\n".join(lines))
    print("\n".join(lines))
    return None


if __name__ == "__main__":
    main()
