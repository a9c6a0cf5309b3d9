"""Runs presets with several seeds and writes what came out into configs/README.md.

    python benchmarks/accuracy/run.py                          # every preset that has a baseline, seeds 0 1 2
    python benchmarks/accuracy/run.py --presets kd_digits --seeds 0 1 2 3 4
    python benchmarks/accuracy/run.py --table                  # only write the tables and plots again

A preset's baseline (its student on labels alone) runs with the same seeds. A finished run is a line of records.jsonl;
a run whose settings have a record already is not made again, so an interrupted call goes on where it stopped.
"""

import argparse
import hashlib
import json
import statistics
import time
from datetime import datetime, timezone
from pathlib import Path

import torch
import yaml
from matplotlib.figure import Figure

from lit_distill.cli.trainer import cli, quiet
from lit_distill.presets import all_presets, find
from lit_distill.student_file import load_card

HERE = Path(__file__).parent
RECORDS = HERE / "records.jsonl"
README = HERE.parents[1] / "configs" / "README.md"
BEGIN, END = "<!-- results: written by benchmarks/accuracy/run.py -->", "<!-- end of results -->"


def settings(preset):
    return yaml.safe_load(preset.read_text())


def fingerprint(preset):
    """Of all that the result depends on: the preset, its teacher's recipe and the seed-independent rest of its file."""
    texts = [preset.read_bytes()]
    teacher = settings(preset)["model"]["init_args"].get("teacher", {}).get("init_args", {})
    if recipe := teacher.get("recipe"):
        texts.append(find(recipe).read_bytes())
    return hashlib.sha256(b"".join(texts)).hexdigest()[:12]


def records():
    lines = RECORDS.read_text().splitlines() if RECORDS.exists() else []
    return {(r["preset"], r["seed"], r["fingerprint"]): r for r in map(json.loads, lines)}


def run(preset, seed):
    file = HERE / "students" / f"{preset.stem}_{seed}.safetensors"
    start = time.perf_counter()
    trainer = cli(
        ["fit", "--config", str(preset), f"--seed_everything={seed}", f"--student_file.path={file}",
         "--trainer.enable_model_summary=false", "--images.count=0"]
    ).trainer  # fmt: skip
    seconds = time.perf_counter() - start
    record = {
        "preset": preset.stem,
        "seed": seed,
        "fingerprint": fingerprint(preset),
        "results": load_card(file)["results"],
        "seconds": round(seconds, 1),
        "epochs": trainer.current_epoch,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    with RECORDS.open("a") as stream:
        stream.write(json.dumps(record) + "\n")
    print(f"{preset.stem}, seed {seed}: {record['results']} in {seconds:.0f} s", flush=True)


def baseline_of(preset):
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
    gain = ""
    if alone and found is not alone:
        difference = statistics.mean(of(found, "last", "acc")) - statistics.mean(of(alone, "last", "acc"))
        gain = f"{100 * difference:+.2f}"
    agreement = of(found, "last", "agreement")
    seconds = statistics.mean(r["seconds"] / r["epochs"] for r in found)
    return (
        f"| {label} | {mean_std(of(found, 'last', 'acc'))} | {mean_std(of(found, 'selected', 'acc'))} | {gain} "
        f"| {mean_std(agreement) if agreement else ''} | {seconds:.2f} | {len(found)} |"
    )


def found_for(preset, known):
    key = fingerprint(preset)
    return [r for (name, _, print_), r in sorted(known.items()) if name == preset.stem and print_ == key]


def table(baseline, presets, known):
    alone = found_for(baseline, known)
    lines = [
        f"### {settings(presets[0])['data']['class_path']}: student of `{baseline.stem}`",
        "",
        "| preset | test accuracy, last | test accuracy, selected | gain, last | agreement | s/epoch | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    teachers = {}
    for preset in presets:
        for r in found_for(preset, known):
            if "teacher_acc" in r["results"]["last"]:
                teachers.setdefault(preset_teacher(preset), r["results"]["last"]["teacher_acc"])
    lines += [f"| teacher `{name}` | {100 * accuracy:.2f} | | | | | 1 |" for name, accuracy in sorted(teachers.items())]
    lines.append(row(f"`{baseline.stem}` (labels alone)", alone, alone))
    lines += [row(f"`{preset.stem}`", found_for(preset, known), alone) for preset in presets]
    return "\n".join(lines)


def preset_teacher(preset):
    return Path(settings(preset)["model"]["init_args"]["teacher"]["init_args"]["path"]).stem


def plot(baseline, presets, known):
    rows = [(p.stem, of(found_for(p, known), "last", "acc")) for p in (baseline, *presets)]
    rows = [(name, [100 * v for v in values]) for name, values in rows if values]
    if not rows:
        return
    rows.sort(key=lambda item: statistics.mean(item[1]))
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


def write(presets, known):
    groups = {}
    for preset in presets:
        groups.setdefault(baseline_of(preset), []).append(preset)
    text = "\n\n".join(table(baseline, members, known) for baseline, members in groups.items())
    for baseline, members in groups.items():
        plot(baseline, members, known)
    page = README.read_text()
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    README.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="*", help="names; default: every preset that has a baseline")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1, help="small networks are fastest with one")
    parser.add_argument("--table", action="store_true", help="run nothing, only write the tables and plots")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    quiet()
    everything = [p for p in all_presets() if p.parent.name != "sweeps" and baseline_of(p) is not None]
    chosen = [find(name) for name in options.presets] if options.presets else everything
    if not options.table:
        todo = [*dict.fromkeys(map(baseline_of, chosen)), *chosen]
        for seed in options.seeds:
            for preset in todo:
                if (preset.stem, seed, fingerprint(preset)) not in records():
                    run(preset, seed)
    write(everything, records())


if __name__ == "__main__":
    main()
