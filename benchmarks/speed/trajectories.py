"""What a step of trajectory matching costs, beside the published way to compute it.

    python benchmarks/speed/trajectories.py [--device cuda]

adds its summary to benchmarks/LOG.md. One step is the gradient of MTT's loss for ten images and the step size. The
published way keeps the graph of all steps and lets a module read its weights out of one flat vector, one slice at a
time, as `GeorgeCazenavette/mtt-distillation:distill.py` does; `full` keeps the graph too, `recompute` replays the
steps. All three must agree in value and gradient. They take turns; what counts is the fastest turn, since other
programs can only add to it: processor time on the CPU, wall time on a GPU. Memory is what tensors hold at the peak.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1] / "tests"), str(HERE.parent)]

import log  # noqa: E402
import torch  # noqa: E402
from live_memory import peak_bytes  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn.functional import cross_entropy  # noqa: E402

import lit_distill  # noqa: E402
from lit_distill.dataset.objectives.trajectory import normalised_distance  # noqa: E402
from lit_distill.dataset.unroll import Stateless, unroll  # noqa: E402
from lit_distill.models import CondensationConvNet  # noqa: E402

WAYS = ("published", "full", "recompute")
TOLERANCE = 1e-3  # relative, of float32 after fifty steps


class Sliced(nn.Module):
    """A network whose weights are attributes that are set anew, from one flat vector, before every forward."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.places = []
        for module in network.modules():
            for name, weight in list(module.named_parameters(recurse=False)):
                self.places.append((module, name, weight.shape))
                delattr(module, name)
                setattr(module, name, weight.detach())

    def forward(self, weights: Tensor, x: Tensor) -> Tensor:
        at = 0
        for module, name, shape in self.places:
            setattr(module, name, weights[at : at + shape.numel()].view(shape))
            at += shape.numel()
        return self.network(x)


def published(network: Sliced, start: Tensor, images: Tensor, labels: Tensor, rate: Tensor, steps: int) -> Tensor:
    weights = [start.clone().requires_grad_()]
    for _ in range(steps):
        rows = torch.arange(len(images), device=images.device)
        value = cross_entropy(network(weights[-1], images[rows]), labels[rows])
        (gradient,) = torch.autograd.grad(value, weights[-1], create_graph=True)
        weights.append(weights[-1] - rate * gradient)
    return weights[-1]


def ours(network: Stateless, route: str) -> Callable[..., Tensor]:
    def loss(weights: Tensor, x: Tensor, y: Tensor, i: int) -> Tensor:
        return cross_entropy(network(weights, x), y)

    def end(start: Tensor, images: Tensor, labels: Tensor, rate: Tensor, steps: int) -> Tensor:
        return unroll(loss, start, images, labels, rate, [torch.arange(len(images))] * steps, route=route)

    return end


def runs(steps: int, args: argparse.Namespace) -> dict[str, Callable[[], tuple[Tensor, ...]]]:
    """One step of distillation in each way, on the same numbers."""
    torch.manual_seed(0)
    network = CondensationConvNet((1, 28, 28), 10, args.width).to(args.device)
    stateless = Stateless(network)
    start = stateless.flat()
    target = start + 0.01 * torch.randn_like(start)
    images = torch.randn(10, 1, 28, 28, device=args.device, requires_grad=True)
    labels = torch.arange(10, device=args.device)
    rate = torch.tensor([0.01], device=args.device, requires_grad=True)
    sliced = Sliced(CondensationConvNet((1, 28, 28), 10, args.width).to(args.device))
    ways = {
        "published": lambda *given: published(sliced, *given),
        "full": ours(stateless, "full"),
        "recompute": ours(stateless, "recompute"),
    }

    def run(end: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        value = normalised_distance(end(start, images, labels, rate, steps), start, target)
        return (value.detach(), *torch.autograd.grad(value, [images, rate]))

    return {name: lambda end=end: run(end) for name, end in ways.items()}


def peak(run: Callable[[], object], device: str) -> float:
    """MB."""
    if device == "cpu":
        return peak_bytes(run) / 1e6
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def seconds(run: Callable[[], object], device: str) -> float:
    clock = time.process_time if device == "cpu" else time.perf_counter
    began = clock()
    run()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--steps", type=int, nargs="+", default=[20, 50])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--dry", action="store_true", help="print only")
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines, peaks = [], {}
    for steps in args.steps:
        made = runs(steps, args)
        values = {name: run() for name, run in made.items()}  # the first also warms up
        worst = max(
            ((a - b).norm() / b.norm()).item()
            for name in WAYS[1:]
            for a, b in zip(values[name], values["published"], strict=True)
        )
        if not worst < TOLERANCE:
            raise SystemExit(f"{steps} steps: the ways differ by {worst:.1e}")
        best = dict.fromkeys(WAYS, float("inf"))
        for _ in range(args.turns):
            for name, run in made.items():
                best[name] = min(best[name], seconds(run, args.device))
        peaks[steps] = {name: peak(run, args.device) for name, run in made.items()}
        told = ", ".join(f"{name} {best[name]:.3g} s and {peaks[steps][name]:.4g} MB" for name in WAYS)
        lines.append(f"{steps} steps: {told}; largest relative difference {worst:.0e}.")
        print(lines[-1], flush=True)
    few, many = min(args.steps), max(args.steps)
    network = Stateless(CondensationConvNet((1, 28, 28), 10, args.width))
    weights = network.flat().numel() * 4e-6
    grown = {name: peaks[many][name] - peaks[few][name] for name in WAYS}
    lines.append(
        f"From {few} to {many} steps memory grows by {grown['recompute']:.3g} MB with `recompute`, which keeps "
        f"{weights:.3g} MB of weights a step, and by {grown['published']:.4g} MB in the published way."
    )
    print(lines[-1])
    if grown["recompute"] > weights * (many - few) * 1.05:
        raise SystemExit("memory grows by more than the weights that are kept")
    if not args.dry:
        where = "one thread of a busy machine" if args.device == "cpu" else torch.cuda.get_device_name()
        about = (
            f"`speed/trajectories.py`: torch {torch.__version__}, lit_distill {lit_distill.__version__}, {where}. A "
            f"step of MTT on ten 28x28 images, ConvNet of width {args.width}. "
        )
        log.add("speed and memory of trajectory matching", about + " ".join(lines))


if __name__ == "__main__":
    main()
