"""Runs presets with several seeds and writes what came out into configs/README.md.

    python benchmarks/accuracy/run.py                          # every preset that has a baseline, seeds 0 1 2
    python benchmarks/accuracy/run.py --data fashion_mnist     # every method on Fashion-MNIST
    python benchmarks/accuracy/run.py --presets kd_digits --seeds 0 1 2 3 4
    python benchmarks/accuracy/run.py --table                  # only write the tables and plots again

A preset's baseline (its student on labels alone) runs with the same seeds. Presets on digits stand in ``configs/``;
those of the methods on Fashion-MNIST are composed by ``compose.py``. A finished run is a line of ``records.jsonl``; a
run whose settings have a record already is not made again, so an interrupted call goes on where it stopped.
"""

import argparse
import os
import time
from datetime import datetime, timezone
from pathlib import Path

import records
import tables
import torch
from compose import fashion_mnist

from lit_distill.cli import stages
from lit_distill.cli.trainer import cli, quiet
from lit_distill.presets import all_presets
from lit_distill.student_file import load_card

HERE = Path(__file__).parent


def cpu_seconds():
    """Of this process and of those that it started and that have ended."""
    return sum(os.times()[:4])


def run(preset, seed):
    file = HERE / "students" / f"{preset.stem}_{seed}.safetensors"
    start, cpu = time.perf_counter(), cpu_seconds()
    if preset.parent.name == "stages":
        *_, last = stages.read(preset, file.with_suffix(""))
        stages.run([str(preset), f"--seed={10 * seed}", f"--out={file.with_suffix('')}", "--images.count=0"])
        file = last.student
    else:
        flags = [f"--seed_everything={seed}", f"--student_file.path={file}", "--trainer.enable_model_summary=false"]
        cli(["fit", "--config", str(preset), *flags, "--images.count=0"])
    seconds, cpu = time.perf_counter() - start, cpu_seconds() - cpu
    card = load_card(file)
    results = card["results"]
    records.add(
        {
            "preset": preset.stem,
            "seed": seed,
            "fingerprint": records.fingerprint(preset),
            "results": results,
            "seconds": round(seconds, 1),
            "cpu_seconds": round(cpu, 1),
            "epochs": card["epoch"],
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
    )
    print(f"{preset.stem}, seed {seed}: {results} in {seconds:.0f} s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=["digits", "fashion_mnist"], help="only presets on this data")
    parser.add_argument("--presets", nargs="*", help="names; default: every preset that has a baseline")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1, help="small networks are fastest with one")
    parser.add_argument("--table", action="store_true", help="run nothing, only write the tables and plots")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    quiet()
    rows = [p for p in all_presets() if p.stem.endswith("_digits") and p.parent.name not in ("sweeps", "teachers")]
    everything = [p for p in rows if tables.baseline_of(p) is not None] + fashion_mnist()
    unknown = set(options.presets or ()) - {p.stem for p in everything}
    if unknown:
        parser.error(f"no preset with a baseline is called {', '.join(sorted(unknown))}")
    chosen = [p for p in everything if not options.presets or p.stem in options.presets]
    chosen = [p for p in chosen if p.stem.endswith(options.data or "")]
    if not options.table:
        for seed in options.seeds:
            for preset in [*dict.fromkeys(map(tables.baseline_of, chosen)), *chosen]:
                if (preset.stem, seed, records.fingerprint(preset)) not in records.read():
                    run(preset, seed)
    tables.write(everything)


if __name__ == "__main__":
    main()
