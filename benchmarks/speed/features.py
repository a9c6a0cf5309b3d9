"""What each feature and relational term costs, forwards and backwards, beside its authors' way to compute it.

    python benchmarks/speed/features.py

measures what features.jsonl does not hold yet, writes features.md from it, and adds the summary to benchmarks/LOG.md;
with --terms those alone are measured again, and nothing is logged. Shapes are those of two real pairs of
networks, whose layers each term chooses by itself; the activations are random, a batch of 64. Both ways get the same
activations and the same learnt layers, and must agree in the value and in each gradient, or there is no row. They are
called as modules, in turns; what counts is the processor time of the fastest turn, since other programs can only add to
it. Memory is what tensors hold at the peak beside the activations, gradients included; what an operator allocates for
itself and gives back is not seen. The authors' ways stand in feature_references.py.
"""

import argparse
import copy
import json
import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path

from losses import NOISE, TOLERANCE, Called, fastest  # puts tests/ and benchmarks/ on the path

import log  # isort: skip
import numpy as np
import torch
from feature_references import REFERENCES, sampled
from live_memory import peak_bytes
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import lit_distill
from lit_distill import Distiller
from lit_distill.core.outputs import Outputs
from lit_distill.core.projectors import LinearProjector
from lit_distill.losses import FSP, DistillLoss, HiddenState, feature, relational
from lit_distill.losses.relational.banks import Banks, negatives
from lit_distill.models import ReusedClassifier, resnet8x4, resnet32x4

BATCH, CLASSES = 64, 100
SAMPLES = 50_000  # of the training set that CRD remembers
HERE = Path(__file__).parent
RECORDS = HERE / "features.jsonl"
MIB = 2**20


def vit(width: int) -> nn.Module:
    """Three of the twelve blocks of a ViT with patches of 16 by 16 at 224 by 224: 197 tokens."""
    return VisionTransformer(embed_dim=width, depth=3, num_heads=width // 64, num_classes=CLASSES)


#: Student, teacher and shape of an image.
PAIRS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module], tuple[int, int, int]]] = {
    "ResNet-8x4 from 32x4": (resnet8x4, resnet32x4, (3, 32, 32)),
    "ViT-Ti from ViT-S": (partial(vit, 192), partial(vit, 384), (3, 224, 224)),
}
TERMS: dict[str, Callable[[], DistillLoss]] = {
    **{name: getattr(feature, name) for name in REFERENCES if hasattr(feature, name)},
    **{name: getattr(relational, name) for name in REFERENCES if hasattr(relational, name)},
    "CC (code)": lambda: relational.CC(mode="code"),
    "CRD": lambda: relational.CRD(samples=SAMPLES),
    "FSP": lambda: FSP(projector=LinearProjector()),
    "HiddenState (cosine)": lambda: HiddenState(distance="cosine"),
    "RKD (angles)": lambda: relational.RKD(distance_weight=0.0),
    "RKD (distances)": lambda: relational.RKD(angle_weight=0.0),
}
DRAWN = "CRD, negatives"
#: What is not measured, and why.
LEFT_OUT = {
    ("FitNet", "ViT-Ti from ViT-S"): "it takes maps",
    ("FSP", "ViT-Ti from ViT-S"): "the authors' way makes tensors of 7 GiB",
    ("SRD", "ViT-Ti from ViT-S"): "the authors' gradient in float32 is further from that in float64 than is tolerated",
    ("SemCKD", "ViT-Ti from ViT-S"): "its 27 convolutions of 196 positions take a minute a step",
    ("KDSVD", "ViT-Ti from ViT-S"): "the authors' gradient is not a number",
    ("OFD", "ViT-Ti from ViT-S"): "the teacher has no batch normalisation",
    ("SimKD", "ViT-Ti from ViT-S"): "the teacher's classifier takes the class token",
    ("ViTKD", "ResNet-8x4 from 32x4"): "made for blocks of tokens",
}


@dataclass(frozen=True)
class Row:
    name: str
    pair: str
    difference: float
    ours_ms: float
    reference_ms: float
    ours_memory: float
    reference_memory: float

    @property
    def ratio(self) -> float:
        return self.reference_ms / self.ours_ms


def measured(name: str, pair: str, args: argparse.Namespace) -> Row:
    """Compare and time one term.

    Raises:
        ArithmeticError: If the two ways differ.
    """
    torch.manual_seed(0)
    loss, inputs = case(name, pair)
    reference = REFERENCES[name]
    if name == "CRD":
        theirs = reference(loss, inputs["student"].sample_index, inputs["target"])
    else:
        theirs = reference(loss) if isinstance(reference, type) else Called(partial(reference, loss))
    learnt = {f"feature {path}": x for path, x in inputs["student"].features.items()}
    learnt |= {"logits": inputs["student"].logits}
    learnt |= {path: x for path, x in loss.named_parameters() if x.requires_grad}
    given = [inputs["target"], *loss.parameters(), *loss.buffers()]
    given += [x for outputs in (inputs["student"], inputs["teacher"]) for x in (*outputs.features.values(), outputs[0])]
    runs = [partial(step, function, inputs, learnt) for function in (loss, theirs)]
    said: list[tuple] = []
    memory = [peak_bytes(lambda run=run: said.append(run()), given) / MIB for run in runs]
    difference = largest_difference(*said, learnt)
    if not difference < TOLERANCE:
        raise ArithmeticError(f"{name} of {pair} ({difference:.0e})")
    said.clear()
    return Row(name, pair, difference, *(1000 * seconds for seconds in fastest(runs, args)), *memory)


@cache
def networks(pair: str) -> tuple[nn.Module, nn.Module]:
    return PAIRS[pair][0](), PAIRS[pair][1]()


def case(name: str, pair: str) -> tuple[DistillLoss, dict]:
    """A term that has met both networks, and what these might have said."""
    student, teacher = networks(pair)
    loss, shape = TERMS[name](), PAIRS[pair][2]
    if name == "SimKD":
        student = ReusedClassifier(copy.deepcopy(student), teacher, shape)
    module = Distiller(
        student=student, teacher=teacher, losses={"it": loss}, optimizer=torch.optim.SGD, input_shape=shape
    )
    blank = torch.zeros(2, *shape)
    with torch.no_grad():
        said = module.eval().forward_student(blank), module.forward_teacher(blank)
    loss.train()
    # not centred, as activations are: samples resemble each other, and so do channels
    features = [
        {path: 1 + torch.randn(BATCH, *x.shape[1:]) for path, x in outputs.features.items()} for outputs in said
    ]
    for x in features[0].values():
        x.requires_grad_()
    logits = torch.randn(2, BATCH, CLASSES).unbind()
    index, target = torch.randperm(SAMPLES)[:BATCH], torch.randint(CLASSES, (BATCH,))
    if name == "CRD":
        loss.banks.state["classes"] = torch.randint(CLASSES, (SAMPLES,)).scatter(0, index, target)
    inputs = {
        "student": Outputs(logits[0].clone().requires_grad_(), features[0], index),
        "teacher": Outputs(logits[1].clone(), features[1], index),
    }
    return loss, inputs | {"target": target}


def step(function: nn.Module, inputs: dict, learnt: dict[str, Tensor]) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """Value and gradients."""
    value = function(**inputs)
    return value.detach(), torch.autograd.grad(value, list(learnt.values()), allow_unused=True)


def largest_difference(ours: tuple, theirs: tuple, learnt: dict[str, Tensor]) -> float:
    """Relative, of the values, of the gradient of each activation, and of that of all weights together.

    Weights in front of a normalisation have a gradient of 0, but for rounding.
    """
    used = [[name for name, x in zip(learnt, grads, strict=True) if x is not None] for _, grads in (ours, theirs)]
    if used[0] != used[1] or any(name.startswith("feature") for name in learnt.keys() - set(used[0])):
        raise ArithmeticError(f"gradients for {used[0]} and {used[1]}")
    pairs, weights = [(ours[0], theirs[0])], [(torch.zeros(1), torch.zeros(1))]
    for name, *both in zip(learnt, ours[1], theirs[1], strict=True):
        if name in used[0]:
            (pairs if name.startswith("feature") else weights).append(tuple(x.flatten() for x in both))
    if len(weights) > 1:
        pairs.append(tuple(map(torch.cat, zip(*weights, strict=True))))
    return torch.stack([(a - b).norm() / b.norm() for a, b in pairs]).max().item()


def drawn(args: argparse.Namespace) -> Row:
    """How long the negatives of a batch take, for all samples at once and sample by sample.

    What is drawn cannot be the same: both must be of other classes than their samples.
    """
    torch.manual_seed(0)
    np.random.seed(0)
    count = relational.CRD(samples=1).negatives
    banks = Banks(SAMPLES, 1, momentum=0.5, seed=0)
    classes, labels = torch.randint(CLASSES, (SAMPLES,)), torch.randint(CLASSES, (BATCH,))
    by_class = [(classes != y).nonzero()[:, 0].numpy() for y in range(CLASSES)]
    target = labels.tolist()

    def ours() -> Tensor:
        return negatives(classes, labels, banks.draws(BATCH, count, classes.device))

    def theirs() -> Tensor:
        return torch.from_numpy(sampled(by_class, target, count))

    for rows in (ours(), theirs()):
        if rows.shape != (BATCH, count) or (classes[rows] == labels.unsqueeze(1)).any():
            raise ArithmeticError("negatives: one is of the class of its sample")
    memory = [peak_bytes(function, [classes, labels]) / MIB for function in (ours, theirs)]
    best = (1000 * seconds for seconds in fastest([ours, theirs], args))
    return Row(DRAWN, f"{BATCH} x {count} of {SAMPLES}", 0.0, *best, *memory)


def records() -> dict[tuple[str, str], Row]:
    """The last measurement of each row."""
    lines = RECORDS.read_text().splitlines() if RECORDS.exists() else []
    rows = [Row(**json.loads(line)) for line in lines]
    return {(row.name, row.pair): row for row in sorted(rows, key=lambda row: row.name.lower())}


def record(row: Row) -> None:
    with RECORDS.open("a") as file:
        file.write(json.dumps(asdict(row)) + "\n")
    print(table([row])[-1], f"{row.difference:.0e}", file=sys.stderr, flush=True)


def table(rows: list[Row]) -> list[str]:
    lines = ["| term | networks | lit_distill, ms | authors' way, ms | times as fast | MiB | authors' way |"]
    lines.append("|---" * 7 + "|")
    for r in rows:
        lines.append(
            f"| `{r.name}` | {r.pair} | {r.ours_ms:.3g} | {r.reference_ms:.3g} | {r.ratio:.2f} "
            f"| {r.ours_memory:.3g} | {r.reference_memory:.3g} |"
        )
    return lines


def summary(rows: list[Row]) -> str:
    """What goes into the log."""
    slower = [f"{r.name} of {r.pair} ({r.ratio:.2f})" for r in rows if r.ratio < NOISE]
    above = [f"{r.name} of {r.pair}" for r in rows if r.ours_memory > 1.05 * r.reference_memory]
    ratios = [r.ratio for r in rows]
    return (
        f"{len(rows)} rows: {min(ratios):.2f} to {max(ratios):.0f} times as fast as the authors' way, median "
        f"{statistics.median(ratios):.2f}. Slower by more than {1 - NOISE:.0%}: {', '.join(slower) or 'none'}. "
        f"More memory by more than 5%: {', '.join(above) or 'none'}. "
        f"Largest relative difference of a value or gradient: {max(r.difference for r in rows):.0e}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--terms", nargs="*", help="measure these again; default: what was not measured yet")
    parser.add_argument("--turns", type=int, default=100, help="most turns of each; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=2, help="turns of a row begin; default: %(default)s")
    args = parser.parse_args()
    torch.set_num_threads(1)
    known, failed = records(), []
    for name in args.terms or [DRAWN, *sorted(TERMS, key=str.lower)]:
        for pair in PAIRS if name != DRAWN else ("",):
            if (name, pair) in LEFT_OUT or (not args.terms and any(k == name and pair in p for k, p in known)):
                continue
            try:
                record(drawn(args) if name == DRAWN else measured(name, pair, args))
            except ArithmeticError as error:
                failed.append(str(error))
    if failed:
        raise SystemExit(f"term and reference differ, or a draw is wrong: {', '.join(failed)}")
    write(args)


def write(args: argparse.Namespace) -> None:
    known = records()
    wanted = [(name, pair) for name in TERMS for pair in PAIRS if (name, pair) not in LEFT_OUT]
    missing = [f"{name} of {pair}" for name, pair in wanted if (name, pair) not in known]
    versions = f"torch {torch.__version__.split('+')[0]}, lit_distill {lit_distill.__version__}"
    lines = [
        "# Feature and relational terms, forwards and backwards",
        "",
        f"One thread of {os.cpu_count()} CPU cores, float32, a batch of {BATCH}, {versions}. Processor time of the "
        f"fastest of up to {args.turns} turns, by `benchmarks/speed/features.py`.",
        "ResNet-8x4 and 32x4 have maps of 64 x 32 x 32, 128 x 16 x 16 and 256 x 8 x 8; ViT-Ti and ViT-S 197 tokens of "
        "192 and 384, after each of three blocks.",
        "Memory: the peak of what tensors hold beside the activations, gradients included, in MiB.",
        "",
        summary(list(known.values())),
        "",
        *(f"Not measured: {name} of {pair}: {why}." for (name, pair), why in LEFT_OUT.items()),
        *([f"Not measured yet: {', '.join(missing)}."] if missing else []),
        "",
        *table(list(known.values())),
        "",
    ]
    (HERE / "features.md").write_text("\n".join(lines))
    if not args.terms:
        text = f"`speed/features.py`: {versions}. {summary(list(known.values()))}"
        if missing:
            text += f" Not measured yet: {', '.join(missing)}."
        log.add("speed and memory of the feature and relational terms", text)


if __name__ == "__main__":
    main()
