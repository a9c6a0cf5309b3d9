"""What has been run: one line of ``records.jsonl`` a run."""

import hashlib
import json
from pathlib import Path

from compose import settings

from lit_distill.presets import find

FILE = Path(__file__).parent / "records.jsonl"


def fingerprint(preset: Path) -> str:
    """Of all that a result depends on besides the seed: the settings of the preset and of its teacher's recipe."""
    whole = [settings(preset)]
    for stage in whole[0].get("stages", {}).values():
        whole.append(settings(find(stage["preset"])))
    teacher = whole[0].get("model", {}).get("init_args", {}).get("teacher", {}).get("init_args", {})
    if recipe := teacher.get("recipe"):
        whole.append(settings(find(recipe)))
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:12]


def read() -> dict[tuple[str, int, str], dict]:
    """Records by preset, seed and fingerprint."""
    lines = FILE.read_text().splitlines() if FILE.exists() else []
    return {(r["preset"], r["seed"], r["fingerprint"]): r for r in map(json.loads, lines)}


def add(record: dict) -> None:
    """Append a record; several processes may do so at once."""
    with FILE.open("a") as stream:
        stream.write(json.dumps(record) + "\n")


def of_preset(preset: Path, known: dict[tuple[str, int, str], dict]) -> list[dict]:
    """The records of a preset as it stands now, by seed."""
    key = fingerprint(preset)
    return [r for (name, _, print_), r in sorted(known.items()) if name == preset.stem and print_ == key]
