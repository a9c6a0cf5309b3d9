"""What each term on logits costs, forwards and backwards, beside its authors' way to compute it.

    python benchmarks/speed/losses.py

writes benchmarks/speed/losses.md and adds the summary to benchmarks/LOG.md. Both get the same logits, and must agree in
value and gradient, or there is no row. They are called as modules, in turns, several times a turn; what counts is the
processor time of the fastest turn, since other programs can only add to it. Memory is what tensors hold at the peak
beside the logits, gradient included, in tensors of the size of the logits. The authors' ways stand in references.py;
logits and terms in tests/loss_cases.py.
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
from loss_cases import CASES, step, tensors, unit  # noqa: E402
from references import CONSTANTS, REFERENCES  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import lit_distill  # noqa: E402

SHAPES = ((256, 1000), (64, 100))
TOLERANCE = 1e-4  # relative, between the values and between the gradients, which both are of float32
NOISE = 0.95  # two measurements of one and the same function are this close
TURN = 0.01  # seconds, the least that a turn is repeated for: far above what the clock can tell apart


@dataclass(frozen=True)
class Row:
    name: str
    shape: tuple[int, int]
    difference: float
    ours_ms: float
    reference_ms: float
    ours_memory: float
    reference_memory: float

    @property
    def ratio(self) -> float:
        return self.reference_ms / self.ours_ms


class Called(nn.Module):
    """A function, called as a module."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, **inputs: object) -> Tensor:
        return self.function(**inputs)


def measured(name: str, shape: tuple[int, int], args: argparse.Namespace) -> Row:
    case, reference = CASES[name], REFERENCES[name]
    inputs = case.inputs(*shape)
    difference = largest_difference(step(case.value, inputs), step(reference, inputs), inputs, name)
    if not difference < TOLERANCE:
        raise SystemExit(f"{name}, {shape}: the term and its reference differ by {difference:.1e}")
    functions = (case.value if case.loss else Called(case.value), Called(reference))
    runs = [partial(step, function, inputs) for function in functions]
    memory = [peak_bytes(run, tensors(inputs)) / unit(inputs) for run in runs]
    best = fastest(runs, args)
    return Row(name, shape, difference, *(1000 * seconds for seconds in best), *memory)


def largest_difference(
    ours: tuple[Tensor, tuple[Tensor, ...]], theirs: tuple[Tensor, tuple[Tensor, ...]], inputs: dict, name: str
) -> float:
    value = theirs[0] - (CONSTANTS[name](**inputs) if name in CONSTANTS else 0)
    pairs = [(ours[0], value), *zip(ours[1], theirs[1], strict=True)]
    return max(((a - b).norm() / b.norm()).item() for a, b in pairs)


def fastest(functions: list[Callable[[], object]], args: argparse.Namespace) -> list[float]:
    """Seconds of processor time that each takes in its fastest turn."""
    start = time.process_time()
    best = [timed(function, 1) for function in functions]
    repeats = [max(1, round(TURN / seconds)) for seconds in best]
    for _ in range(args.turns):
        if time.process_time() - start > args.seconds:
            break
        for i, function in enumerate(functions):
            best[i] = min(best[i], timed(function, repeats[i]))
    return best


def timed(function: Callable[[], object], repeats: int) -> float:
    start = time.process_time()
    for _ in range(repeats):
        function()
    return (time.process_time() - start) / repeats


def table(rows: list[Row]) -> list[str]:
    lines = ["| term | rows x classes | lit_distill, ms | authors' way, ms | times as fast | memory | authors' way |"]
    lines.append("|---" * 7 + "|")
    for r in rows:
        lines.append(
            f"| `{r.name}` | {r.shape[0]} x {r.shape[1]} | {r.ours_ms:.3g} | {r.reference_ms:.3g} | {r.ratio:.2f} "
            f"| {r.ours_memory:.1f} | {r.reference_memory:.1f} |"
        )
    return lines


def summary(rows: list[Row]) -> str:
    """What goes into the log."""
    slower = [f"{r.name} at {r.shape[0]} x {r.shape[1]} ({r.ratio:.2f})" for r in rows if r.ratio < NOISE]
    batch, classes = max(SHAPES)
    above = [f"{r.name} ({r.ours_memory:.1f})" for r in rows if r.shape == (batch, classes) and r.ours_memory > 6.1]
    ratios = [r.ratio for r in rows]
    return (
        f"{len(rows)} rows: {min(ratios):.2f} to {max(ratios):.0f} times as fast as the authors' way, median "
        f"{statistics.median(ratios):.2f}. Slower by more than {1 - NOISE:.0%}: {', '.join(slower) or 'none'}. "
        f"More than 6 tensors of memory at {batch} x {classes}: {', '.join(above) or 'none'}. Largest relative "
        f"difference of a value or gradient: {max(r.difference for r in rows):.0e}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--terms", nargs="*", help="default: all; with names the table is printed and not written")
    parser.add_argument("--turns", type=int, default=100, help="most turns of each; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=3, help="turns of a row begin; default: %(default)s")
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = args.terms or sorted(CASES, key=str.lower)
    missing = [name for name in names if name not in REFERENCES]
    rows = []
    for name in names:
        for shape in SHAPES if name not in missing else ():
            rows.append(measured(name, shape, args))
            print(table(rows)[-1], file=sys.stderr, flush=True)
    versions = f"torch {torch.__version__.split('+')[0]}, lit_distill {lit_distill.__version__}"
    lines = [
        "# Terms on logits, forwards and backwards",
        "",
        f"One thread of {os.cpu_count()} CPU cores, float32, {versions}. Processor time of the fastest of up to "
        f"{args.turns} turns, by `benchmarks/speed/losses.py`.",
        "Memory: the peak of what tensors hold beside the logits, gradient included, in tensors of the logits' size.",
        "",
        summary(rows),
        *([f"Not compared: {', '.join(missing)}."] if missing else []),
        "",
        *table(rows),
        "",
    ]
    if not args.terms:
        (HERE / "losses.md").write_text("\n".join(lines))
        log.add("speed and memory of the terms on logits", f"`speed/losses.py`: {versions}. {summary(rows)}")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
