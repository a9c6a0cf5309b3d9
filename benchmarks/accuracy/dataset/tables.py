"""The judgements of distilled sets as a table in configs/README.md and as a picture."""

import json
from pathlib import Path
from statistics import fmean

from matplotlib.figure import Figure

HERE = Path(__file__).parent
README = HERE.parents[2] / "configs" / "README.md"
BEGIN = "<!-- distilled sets: written by benchmarks/accuracy/dataset/run.py -->"
END = "<!-- end of distilled sets -->"
LABELS = {"hard": "classes", "own": "learned", "teacher": "teacher"}


def read(file):
    """All records; a later one of the same kind with more seeds takes the place of an earlier one."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def newest(records):
    """For each row, budget and set of models the record with the most seeds, the last of several."""
    best = {}
    for record in records:
        key = record["row"], record["budget"], tuple(record["models"])
        if key not in best or len(record["seeds"]) >= len(best[key]["seeds"]):
            best[key] = record
    return best


def reached(result):
    """Mean, deviation over networks, deviation over sets, in per cent."""
    deviations = [result["std_networks"], result["std_sets"]]
    spread = "".join(f" ± {100 * d:.1f}" if d is not None else " ± -" for d in deviations)
    return f"{100 * result['mean']:.1f}{spread}"


def lines(records, plan):
    """The table's lines."""
    yield (
        "| set | images a class | network | recipe | labels | test accuracy | published, width 128 | steps | "
        "CPU seconds | seeds |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|"
    controls = set()
    for record in records:
        about = plan["rows"][record["row"]]
        for result in record["results"]:
            model = f"{result['model']} {record['width']}" if result["model"] == "convnet" else result["model"]
            common = f"{record['budget']} | {model} | {record['recipe']} | {LABELS[result['labels']]}"
            if result["set"] != "distilled":
                if (result["set"], common) in controls:
                    continue
                controls.add((result["set"], common))
                yield f"| {result['set']} | {common} | {reached(result)} | | | | |"
                continue
            published = about.get("published", {}).get(record["budget"], "")
            shown = published if result["model"] == "convnet" else ""
            cost = round(fmean(c["cpu_seconds"] for c in record["costs"]))
            name = record["row"].removesuffix("_fashion_mnist")
            steps = record["costs"][0]["steps"]
            seeds = len(record["seeds"])
            yield f"| `{name}` | {common} | **{reached(result)}** | {shown} | {steps} | {cost} | {seeds} |"


def picture(records):
    """Accuracies of the ConvNet, budget by budget."""
    bars = {}
    for record in records:
        for result in record["results"]:
            if result["model"] == "convnet":
                name = record["row"].removesuffix("_fashion_mnist") if result["set"] == "distilled" else result["set"]
                label = f"{name}, {LABELS[result['labels']]} labels, {record['recipe']}"
                bars.setdefault(record["budget"], {}).setdefault(label, (result["set"], result["mean"]))
    if not bars:
        return
    height = 1 + 0.25 * sum(map(len, bars.values()))
    figure = Figure(figsize=(8, height), layout="constrained")
    ratios = [len(bars[budget]) for budget in sorted(bars)]
    for axes, budget in zip(
        figure.subplots(len(bars), squeeze=False, height_ratios=ratios)[:, 0], sorted(bars), strict=True
    ):
        ranked = sorted(bars[budget].items(), key=lambda item: item[1][1])
        colours = ["tab:blue" if kind == "distilled" else "tab:gray" for _, (kind, _) in ranked]
        axes.barh([label for label, _ in ranked], [100 * mean for _, (_, mean) in ranked], color=colours)
        axes.set_title(f"{budget} image{'s' if budget > 1 else ''} a class")
        axes.set_xlabel("test accuracy, %")
        axes.set_xlim(left=20)
    figure.savefig(HERE / "fashion_mnist.png", dpi=120)


def write(file, plan):
    """Write table and picture."""
    order = list(plan["rows"])
    records = sorted(
        newest(read(file)).values(), key=lambda r: (len(r["models"]) > 1, r["budget"], order.index(r["row"]))
    )
    picture(records)
    page = README.read_text()
    shown = ["![accuracy of networks trained on each set](../benchmarks/accuracy/dataset/fashion_mnist.png)", ""]
    text = "\n".join([*(shown if (HERE / "fashion_mnist.png").exists() else []), *lines(records, plan)])
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    README.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")
