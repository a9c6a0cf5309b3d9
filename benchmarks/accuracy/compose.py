"""The methods' presets on Fashion-MNIST: the terms of each one's digits preset, all else from one base preset.

``fashion_mnist.yaml`` names the bases and what a method changes (layers have other names in another student). The
results are complete presets in ``presets/``, as ``lit-distill fit --config`` takes them.
"""

from pathlib import Path

import yaml

from lit_distill.presets import find

HERE = Path(__file__).parent

#: What a method takes from the base preset, unless it changes it.
EVERYONES = ("student", "teacher", "losses", "optimizer", "scheduler")


def settings(preset: Path) -> dict:
    return yaml.safe_load(preset.read_text())


def plan() -> dict[str, dict]:
    """``{base preset: {digits preset: what it changes}}``."""
    return settings(HERE / "fashion_mnist.yaml")


def compose(base: str, method: str, changes: dict | None) -> Path:
    """Write the preset of one method beside this file, and return it."""
    changes = changes or {}
    whole, own = settings(find(base)), settings(find(method))
    model, terms = whole["model"]["init_args"], own["model"]["init_args"]
    whole["model"]["class_path"] = own["model"]["class_path"]
    if "teacher" not in terms:
        del model["teacher"]
    model |= {name: value for name, value in terms.items() if name == "losses" or name not in EVERYONES}
    model |= {name: value for name, value in changes.items() if name != "callbacks"}
    whole["data"]["init_args"] |= own["data"].get("init_args", {})
    whole["trainer"]["callbacks"] += changes.get("callbacks", own["trainer"].get("callbacks", []))
    file = HERE / "presets" / f"{method.removesuffix('_digits')}{base[base.index('_') :]}.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(yaml.safe_dump(whole, sort_keys=False, width=120))
    return file


def fashion_mnist() -> list[Path]:
    """The presets of every method, base by base."""
    presets = []
    for base, methods in plan().items():
        presets += [find(base)] + [compose(base, method, changes) for method, changes in methods.items()]
    return presets
