"""What one iteration of class-wise dataset distillation costs, beside its authors' way to compute it.

    python benchmarks/speed/dataset.py

writes benchmarks/speed/dataset.md and adds the summary to benchmarks/LOG.md. An iteration is the loss of all ten
classes, one synthetic image each, in one network, and its gradient for the synthetic images; making the network and the
optimizer's step are left out. Both get the same images (of the shape of Fashion-MNIST), network and augmentation, and
must agree in value and gradient, or there is no row. The authors' way is a loop over classes, each of which passes the
network by itself, written anew after ``VICO-UoE/DatasetCondensation:main.py`` and ``main_DM.py``.

Time is the processor time of the fastest turn, since other programs can only add to it. Memory is what tensors hold at
the peak beside images and network.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1] / "tests"), str(HERE.parent)]

import log  # noqa: E402
import torch  # noqa: E402
from live_memory import peak_bytes  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import lit_distill  # noqa: E402
from lit_distill.dataset import DistributionMatching, GradientMatching, Pixels, SiameseAugmentation  # noqa: E402
from lit_distill.dataset.augment import Drawn  # noqa: E402
from lit_distill.dataset.step import Labelled, Purpose, Step  # noqa: E402
from lit_distill.models import CondensationConvNet  # noqa: E402
from lit_distill.models.random_weights import seeded  # noqa: E402

CLASSES, SHAPE = 10, (1, 28, 28)
TOLERANCE = 1e-4  # relative, between the values and between the gradients, which both are of float32
AIM = 2

Result = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Row:
    method: str
    width: int
    per_class: int
    difference: float
    ours_s: float
    reference_s: float
    ours_bytes: int
    reference_bytes: int

    @property
    def ratio(self) -> float:
        return self.reference_s / self.ours_s


def classes_of(step: Step) -> list[tuple[Tensor, Tensor]]:
    """Real and synthetic images of each class, augmented alike, class by class."""
    every = []
    for c in range(CLASSES):
        real, synthetic = step.real.images[c], step.synthetic.images[c]
        if step.augment is not None:
            drawn: Drawn = step.augment.draw([step.generator(Purpose.AUGMENT, c)])
            real, synthetic = (step.augment(x[None], drawn)[0] for x in (real, synthetic))
        every.append((real, synthetic))
    return every


def authors_dm(step: Step, network: nn.Module) -> Tensor:
    loss = torch.zeros(())
    for real, synthetic in classes_of(step):
        of_real, of_synthetic = network.features(real).detach(), network.features(synthetic)
        loss = loss + ((of_real.mean(0) - of_synthetic.mean(0)) ** 2).sum()
    return loss


def authors_distance(real: list[Tensor], synthetic: list[Tensor]) -> Tensor:
    total = torch.zeros(())
    for a, b in zip(real, synthetic, strict=True):
        if a.dim() == 1:
            continue
        a, b = a.reshape(a.shape[0], -1), b.reshape(b.shape[0], -1)
        total = total + (1 - (a * b).sum(-1) / (torch.norm(a, dim=-1) * torch.norm(b, dim=-1) + 1e-6)).sum()
    return total


def authors_dc(step: Step, network: nn.Module) -> Tensor:
    parameters = list(network.parameters())
    loss = torch.zeros(())
    for c, (real, synthetic) in enumerate(classes_of(step)):
        of_real = F.cross_entropy(network(real), torch.full((len(real),), c))
        gradients = [g.detach().clone() for g in torch.autograd.grad(of_real, parameters)]
        of_synthetic = F.cross_entropy(network(synthetic), torch.full((len(synthetic),), c))
        loss = loss + authors_distance(gradients, torch.autograd.grad(of_synthetic, parameters, create_graph=True))
    return loss


METHODS = {
    "DM": (DistributionMatching(), authors_dm, SiameseAugmentation()),
    "DC": (GradientMatching(), authors_dc, None),
    "DSA": (GradientMatching(), authors_dc, SiameseAugmentation()),
}


def iteration(loss: Callable[[Step, nn.Module], Tensor], step: Step, network: nn.Module) -> Result:
    value = loss(step, network)
    return value.detach(), torch.autograd.grad(value, step.synthetic.images)[0]


def measured(method: str, width: int, per_class: int, args: argparse.Namespace) -> Row:
    objective, authors, augment = METHODS[method]
    generator = torch.Generator().manual_seed(0)
    synthetic = Pixels()
    synthetic.build(CLASSES, SHAPE)
    synthetic.images.data.normal_(generator=generator)
    classes = torch.arange(CLASSES)
    real = Labelled(
        torch.randn(CLASSES, per_class, *SHAPE, generator=generator), classes[:, None].expand(-1, per_class)
    )
    step = Step(0, 0, classes, real, synthetic, augment)
    ours, theirs = (seeded(partial(CondensationConvNet, SHAPE, CLASSES, width)) for _ in range(2))
    for block in theirs.blocks:
        block.pool = nn.AvgPool2d(2)  # as published
    # the samplers' networks require no gradient; those of the authors do where gradients are matched
    ours.requires_grad_(False)
    theirs.requires_grad_(authors is authors_dc)
    runs = [partial(iteration, objective, step, ours), partial(iteration, authors, step, theirs)]
    results: list[Result] = []
    given = [real.images, synthetic.images, *ours.parameters(), *theirs.parameters()]
    memory = [peak_bytes(lambda run=run: results.append(run()), given) for run in runs]
    difference = max(((a - b).norm() / b.norm()).item() for a, b in zip(*results, strict=True))
    if not difference < TOLERANCE:
        raise SystemExit(f"{method}, width {width}: it and its reference differ by {difference:.1e}")
    best = [float("inf")] * 2
    start = time.process_time()
    for turn in range(args.turns):
        if turn and time.process_time() - start > args.seconds:
            break
        for i, run in enumerate(runs):
            best[i] = min(best[i], timed(run))
    return Row(method, width, per_class, difference, *best, *memory)


def timed(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def table(rows: list[Row]) -> list[str]:
    lines = [
        "| method | width | real images a class | lit_distill, s | authors' way, s | times as fast | MB | theirs |"
    ]
    lines.append("|---" * 8 + "|")
    for r in rows:
        lines.append(
            f"| {r.method} | {r.width} | {r.per_class} | {r.ours_s:.3g} | {r.reference_s:.3g} | {r.ratio:.2f} "
            f"| {r.ours_bytes / 1e6:.0f} | {r.reference_bytes / 1e6:.0f} |"
        )
    return lines


def summary(rows: list[Row]) -> str:
    """What goes into the log."""
    ratios = [r.ratio for r in rows]
    below = [f"{r.method} at width {r.width} ({r.ratio:.2f})" for r in rows if r.ratio < AIM]
    return (
        f"An iteration is {min(ratios):.2f} to {max(ratios):.2f} times as fast as the authors' loop over classes, "
        f"median {statistics.median(ratios):.2f}. Less than {AIM} times: {', '.join(below) or 'none'}. Largest "
        f"relative difference of a value or gradient: {max(r.difference for r in rows):.0e}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="*", help="default: all; with names the table is printed and not written")
    parser.add_argument(
        "--sizes",
        nargs="*",
        default=["32x256", "128x64"],
        help="width of the network x real images a class; the authors take 256; default: %(default)s",
    )
    parser.add_argument("--turns", type=int, default=5, help="most turns of each; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=20, help="turns of a row begin; default: %(default)s")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for size in args.sizes:
        width, per_class = map(int, size.split("x"))
        for method in args.methods or METHODS:
            rows.append(measured(method, width, per_class, args))
            print(table(rows)[-1], file=sys.stderr, flush=True)
    versions = f"torch {torch.__version__.split('+')[0]}, lit_distill {lit_distill.__version__}"
    lines = [
        "# An iteration of class-wise dataset distillation",
        "",
        f"One thread of {os.cpu_count()} CPU cores, float32, {versions}. Ten classes of grey images of 28 pixels, one "
        f"synthetic image each, ConvNet of depth 3, whose pooling is torch's own in the authors' way. Processor "
        f"time of the fastest of up to {args.turns} turns, by `benchmarks/speed/dataset.py`. Memory: the peak of what "
        "tensors hold beside images and network.",
        "",
        summary(rows),
        "",
        *table(rows),
        "",
    ]
    if not args.methods:
        (HERE / "dataset.md").write_text("\n".join(lines))
        log.add(
            "speed and memory of class-wise dataset distillation", f"`speed/dataset.py`: {versions}. {summary(rows)}"
        )
    print("\n".join(lines))


if __name__ == "__main__":
    main()
