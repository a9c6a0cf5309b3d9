"""Distils Fashion-MNIST by every method of ``plan.yaml``, judges the sets, and writes what came out.

    python benchmarks/accuracy/dataset/run.py                              # every row, seeds 0 1 2
    python benchmarks/accuracy/dataset/run.py --rows dm_fashion_mnist --budgets 1 --seeds 0
    python benchmarks/accuracy/dataset/run.py --across                     # other architectures
    python benchmarks/accuracy/dataset/run.py --table                      # only write table and picture again

A row's preset for one image a class is ``configs/dataset/<row>_ipc1.yaml``; more images are a flag, or a preset of
their own where there is one. Sets go to ``sets/``, and a set that is there and whole is not distilled again; a
judgement is a line of ``records.jsonl``, and none is made twice. Random images and herding, with as many images, are
judged beside every recipe. Accuracies are of the test set, at the end of training: nothing is selected.
"""

import argparse
import json
import os
import time
from pathlib import Path

import tables
import torch
import yaml
from jsonargparse import ArgumentParser
from torch import nn

from lit_distill.cli.trainer import cli, quiet
from lit_distill.data import FashionMNIST
from lit_distill.dataset import DistilledDataset
from lit_distill.dataset.architectures import architecture
from lit_distill.dataset.evaluation import evaluate
from lit_distill.dataset.recipe import recipe_of
from lit_distill.presets import all_presets
from lit_distill.student_file import write_whole

HERE = Path(__file__).parent
SETS, RECORDS = HERE / "sets", HERE / "records.jsonl"
SHAPE, CLASSES = (1, 28, 28), 10


def cpu_seconds():
    """Of this process and of those that it started and that have ended."""
    return sum(os.times()[:4])


def preset_of(row, budget):
    """A preset for this budget, or the one for a single image with a flag that changes it."""
    known = {preset.stem: preset for preset in all_presets()}
    if own := known.get(f"{row}_ipc{budget}"):
        return own, []
    return known[f"{row}_ipc1"], [f"--model.synthetic.init_args.images_per_class={budget}"]


def distilled(row, budget, seed):
    """The set of a row, made if it is not there yet; and what it took."""
    folder = SETS / f"{row}_ipc{budget}_{seed}"
    if not (folder / "cost.json").exists():
        preset, flags = preset_of(row, budget)
        start, cpu = time.perf_counter(), cpu_seconds()
        done = cli(["fit", "--config", str(preset), f"--seed_everything={seed}", "--images.count=0", *flags])
        cost = {"seconds": time.perf_counter() - start, "cpu_seconds": cpu_seconds() - cpu}
        done.model.save(folder)
        cost |= {"steps": done.model.global_step, "threads": torch.get_num_threads()}
        text = json.dumps(cost)
        write_whole(folder / "cost.json", lambda partial: partial.write_text(text))
    return DistilledDataset.load(folder), json.loads((folder / "cost.json").read_text())


def teacher_of(plan):
    """The network whose answers are the soft labels."""
    parser = ArgumentParser()
    parser.add_argument("--network", type=nn.Module)
    return parser.instantiate_classes(parser.parse_object({"network": plan["teacher"]})).network


def judge(plan, row, budget, seeds, models, networks):
    """Train networks on the sets of a row and on its controls, and add what they reached to the records."""
    about = plan["rows"][row]
    recipe = about.get("recipe", plan["recipe"])
    key = {"row": row, "budget": budget, "seeds": list(seeds), "models": sorted(models), "networks": networks}
    key |= {"recipe": recipe, "width": plan["width"]}
    if any(all(record[name] == value for name, value in key.items()) for record in tables.read(RECORDS)):
        return
    made = [distilled(row, budget, seed) for seed in seeds]
    built = {model: architecture(model, SHAPE, CLASSES, plan["width"]) for model in models}
    teacher = teacher_of(plan) if about.get("soft") else None
    data = FashionMNIST(augment=False)
    results = evaluate([s for s, _ in made], data, recipe_of(recipe), built, networks, "test", 0, teacher)
    costs = [cost for _, cost in made]
    with RECORDS.open("a") as stream:
        stream.write(
            json.dumps(key | {"recipe": recipe, "width": plan["width"], "costs": costs, "results": results}) + "\n"
        )
    best = max(result["mean"] for result in results if result["set"] == "distilled")
    print(f"{row}, {budget} images a class: {100 * best:.1f} %", flush=True)


def main():
    plan = yaml.safe_load((HERE / "plan.yaml").read_text())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="*", choices=list(plan["rows"]), help="default: all")
    parser.add_argument("--budgets", nargs="*", type=int, help="images a class; default: those of the plan")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2], help="of the distillation")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--across", action="store_true", help="judge with other architectures")
    parser.add_argument("--table", action="store_true", help="run nothing, only write table and picture")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    quiet()
    across = plan["across"]
    rows = options.rows or (across["rows"] if options.across else list(plan["rows"]))
    models, networks = (across["models"], across["networks"]) if options.across else (["convnet"], plan["networks"])
    for row in [] if options.table else rows:
        for budget in options.budgets or plan["rows"][row]["budgets"]:
            judge(plan, row, budget, options.seeds, models, networks)
    tables.write(RECORDS, plan)


if __name__ == "__main__":
    main()
