"""Untrained networks where presets look for trained ones, so that a test of a preset trains no teacher."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonargparse
import pytest
import torch
import yaml
from torch import Tensor, nn

import lit_distill.data
import lit_distill.models
from lit_distill import presets
from lit_distill.data.score_file import save_scores
from lit_distill.dataset import Experts
from lit_distill.dataset.experts import expert_file, save_snapshots
from lit_distill.dataset.unroll import Stateless
from lit_distill.models import seeded
from lit_distill.student_file import save_student

#: What stands in the card of an untrained student, as if it had been tested.
RESULTS = {"last": {"acc": 0.25}, "selected": {"acc": 0.5}}


def built(settings: dict[str, Any]) -> nn.Module:
    """The network that ``settings`` (``class_path`` and ``init_args``) describe, always with the same weights."""
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--network", type=nn.Module)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return parser.instantiate(parser.parse_object({"network": settings})).network


def wanted(settings: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Path and network of every file that the settings of a preset need."""
    if isinstance(settings, list):
        for value in settings:
            yield from wanted(value)
    if isinstance(settings, dict):
        if str(settings.get("class_path")).endswith("restored"):
            yield settings["init_args"]["path"], settings["init_args"]["model"]
        if "recipe" in settings and "path" in settings and "model" not in settings:
            recipe = yaml.safe_load(presets.find(settings["recipe"]).read_text(encoding="utf-8"))
            yield settings["path"], recipe["model"]["init_args"]["student"]
        for value in settings.values():
            yield from wanted(value)


def followed(preset: Path) -> Iterator[tuple[Path, Tensor, Stateless, dict[str, Any]]]:
    """File, weights, network and card of every expert that a preset needs."""
    settings = yaml.safe_load(preset.read_text(encoding="utf-8"))
    networks = settings.get("model", {}).get("init_args", {}).get("networks", {})
    if networks.get("class_path") != "Experts":
        return
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--experts", type=Experts)
    experts = parser.instantiate(parser.parse_object({"experts": networks})).experts
    card = experts.way.settings() | {"data": settings["data"]["init_args"]["data"]["class_path"]}
    for i in range(experts.count):
        network = Stateless(seeded(experts.network, i))
        weights = network.flat() * torch.linspace(1, 2, experts.way.epochs + 1)[:, None]
        yield expert_file(experts.folder, i), weights, network, card


def scored(settings: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Path and labels of every file of scores that the settings of a preset need."""
    data = settings.get("data", {})
    for path in data.get("init_args", {}).get("subset", {}).get("init_args", {}).get("scores", []):
        yield path, getattr(lit_distill.data, data["class_path"])().read_train().targets


@pytest.fixture(scope="session")
def untrained(tmp_path_factory) -> Path:
    """A folder with every file that a preset names, untrained."""
    folder = tmp_path_factory.mktemp("untrained")
    for preset in presets.all_presets():
        if preset.parent.name == "stages":  # names files that its own stages make
            continue
        settings = yaml.safe_load(preset.read_text(encoding="utf-8"))
        for path, network in wanted(settings):
            if not (folder / path).exists():
                save_student(built(network), folder / path, {"results": RESULTS})
        for path, weights, expert, card in followed(preset):
            if not (folder / path).exists():
                save_snapshots(folder / path, weights, expert, card)
        for path, targets in scored(settings):
            save_scores(folder / path, torch.linspace(0, 1, len(targets)), targets, {})
    return folder


@pytest.fixture
def workshop(untrained, tmp_path, monkeypatch) -> Iterator[Path]:
    """An empty working directory but for the files that presets name."""
    folder = tmp_path / "workshop"
    folder.mkdir()
    for file in untrained.rglob("*"):
        if file.is_file():  # the folders are this test's own: it may write beside the files
            place = folder / file.relative_to(untrained)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(file)
    monkeypatch.chdir(folder)
    # A run sets this for its subprocesses, and leaves it.
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    yield folder
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(folder)):
            del sys.modules[name]
