"""The records as tables in configs/README.md and as plots beside this file."""

import statistics
from pathlib import Path

import records
from compose import settings
from matplotlib.figure import Figure

from lit_distill.presets import find

HERE = Path(__file__).parent
README = HERE.parents[1] / "configs" / "README.md"
BEGIN, END = "<!-- results: written by benchmarks/accuracy/run.py -->", "<!-- end of results -->"


def baseline_of(preset):
    """The recipe of the student alone; of several stages that of the last."""
    if "stages" in settings(preset):
        *_, last = settings(preset)["stages"].values()
        preset = find(last["preset"])
    recipe = settings(preset).get("baseline", {}).get("recipe")
    return find(recipe) if recipe else None


def mean_std(values):
    """Mean and sample standard deviation in per cent."""
    values = [100 * v for v in values]
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def of(found, which, name):
    return [r["results"][which][name] for r in found if name in r["results"].get(which, {})]


def row(label, found, alone):
    if not found:
        return f"| {label} | not run | | | | | |"
    last, selected, agreement = of(found, "last", "acc"), of(found, "selected", "acc"), of(found, "last", "agreement")
    gain = ""
    if alone and found is not alone:
        gain = f"{100 * (statistics.mean(last) - statistics.mean(of(alone, 'last', 'acc'))):+.2f}"
        if beats(found, alone):
            gain = f"**{gain}**"
    seconds = statistics.mean(r["cpu_seconds"] / r["epochs"] for r in found)
    return (
        f"| {label} | {mean_std(last)} | {mean_std(selected)} | {gain} "
        f"| {mean_std(agreement) if agreement else ''} | {seconds:.2f} | {len(found)} |"
    )


def beats(found, alone):
    """Whether the mean less one standard deviation is above the baseline's mean plus one."""
    ours, theirs = of(found, "last", "acc"), of(alone, "last", "acc")
    if min(len(ours), len(theirs)) < 2:
        return False
    low, high = statistics.mean(ours) - statistics.stdev(ours), statistics.mean(theirs) + statistics.stdev(theirs)
    return low > high


def teachers(presets, known):
    """Test accuracy of each teacher, by its name."""
    found = {}
    for preset in presets:
        teacher = settings(preset).get("model", {}).get("init_args", {}).get("teacher", {}).get("init_args", {})
        for r in records.of_preset(preset, known):
            if "path" in teacher and "teacher_acc" in r["results"]["last"]:
                found.setdefault(Path(teacher["path"]).stem, r["results"]["last"]["teacher_acc"])
    return sorted(found.items())


def table(baseline, presets, known):
    alone = records.of_preset(baseline, known)
    lines = [
        f"### {settings(baseline)['data']['class_path']}: student of `{baseline.stem}`",
        "",
        *picture(HERE / f"{baseline.stem}.png"),
        "| preset | test accuracy, last | test accuracy, selected | gain, last | agreement | CPU s/epoch | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [f"| teacher `{name}` | {100 * acc:.2f} | | | | | 1 |" for name, acc in teachers(presets, known)]
    lines.append(row(f"`{baseline.stem}` (labels alone)", alone, alone))
    lines += [row(f"`{preset.stem}`", records.of_preset(preset, known), alone) for preset in presets]
    return "\n".join(lines)


def picture(file):
    return [f"![accuracy of each preset](../benchmarks/accuracy/{file.name})", ""] if file.exists() else []


def plot(baseline, presets, known):
    rows = [(p.stem, of(records.of_preset(p, known), "last", "acc")) for p in (baseline, *presets)]
    rows = sorted(((name, [100 * v for v in values]) for name, values in rows if values), key=middle)
    if not rows:
        return
    figure = Figure(figsize=(7, 1 + 0.28 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for y, (name, values) in enumerate(rows):
        colour = "tab:gray" if name == baseline.stem else "tab:blue"
        spread = statistics.stdev(values) if len(values) > 1 else 0
        axes.errorbar(statistics.mean(values), y, xerr=spread, fmt="o", color=colour, capsize=3)
        axes.plot(values, [y] * len(values), "|", color=colour, alpha=0.5)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_xlabel("test accuracy of the last weights, % (mean, std and each seed)")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(HERE / f"{baseline.stem}.png", dpi=120)


def middle(item):
    return statistics.mean(item[1])


def write(presets):
    """Write the tables and plots of ``presets``, grouped by their baselines."""
    known, groups = records.read(), {}
    for preset in presets:
        groups.setdefault(baseline_of(preset), []).append(preset)
    for baseline, members in groups.items():
        plot(baseline, members, known)
    text = "\n\n".join(table(baseline, members, known) for baseline, members in groups.items())
    page = README.read_text()
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    README.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")
