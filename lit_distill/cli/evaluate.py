"""``lit-distill evaluate``: train fresh networks on a distilled set, and beside it on as many real images."""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import LightningDataModule
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import nn

import lit_distill
import lit_distill.data  # so that bare class names of ours are known
import lit_distill.models
from lit_distill.cli.export import student_of
from lit_distill.cli.parser import Parser
from lit_distill.cli.trainer import short_errors
from lit_distill.data import ClassBatches
from lit_distill.data.base import ImageData
from lit_distill.dataset.architectures import architecture
from lit_distill.dataset.artifact import TENSORS, DistilledDataset
from lit_distill.dataset.evaluation import evaluate, fits, trials
from lit_distill.dataset.evaluation_report import cells_of, models, write_report
from lit_distill.dataset.recipe import RECIPES, Recipe, recipe_of
from lit_distill.errors import InputError
from lit_distill.presets import find

WIDTH = 128  # of the ConvNet in all publications


def run(arguments: list[str]) -> int:
    """Evaluate distilled sets.

    Args:
        arguments: What follows ``lit-distill evaluate``.

    Returns:
        0; errors are raised.
    """
    options = parser().parse_args(arguments)
    with short_errors():
        sets = [DistilledDataset.load(folder) for folder in options.folders]
        first = sets[0]
        name = options.recipe or first.card["recipe"] or ("dc" if first.augment is None else "dsa")
        recipe = changed(recipe_of(name), options.set)
        data = data_of(options.folders[0], first.card, options.config)
        for other in sets:
            fits(other, first, data)
        width = options.width or width_of(first.card["about"]) or WIDTH
        channels, height, side = first.card["input_shape"]
        names = [model.strip() for model in options.models.split(",")]
        builds = {model: architecture(model, (channels, height, side), first.num_classes, width) for model in names}
        device = device_of(options.device)
        data.prepare_data()
        teacher = None if options.teacher is None else teacher_of(options.teacher)
        rounds = sum(len(sets) if trial[0] == "distilled" else 1 for trial in trials(first, teacher))
        with counted(len(builds) * rounds * options.networks) as advance:
            rows = evaluate(
                sets, data, recipe, builds, options.networks, options.split, options.seed, teacher, device, advance
            )
    about = {
        "title": title(first.card, name, options, width),
        "sets": {str(f): s.card["files"][TENSORS] for f, s in zip(options.folders, sets, strict=True)},
        "data": type(data).__name__,
        "split": options.split,
        "recipe": {"name": name, **asdict(recipe)},
        "networks": options.networks,
        "width": width,
        "seed": options.seed,
        "teacher": options.teacher,
        "device": device,
        "lit_distill": lit_distill.__version__,
        "torch": torch.__version__,
    }
    for folder in options.folders:
        write_report(folder, rows, about)
    show(rows, about["title"])
    print(f"Report: {options.folders[0] / 'report.json'}, with report.md and report.png")
    return 0


@contextmanager
def counted(total: int) -> Iterator[Callable[[str], None]]:
    """A progress bar on standard error, and what tells it that a trial begins; nothing where that is no terminal.

    Args:
        total: How many trials there will be.
    """
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("", total=total)
        begun = 0

        def advance(text: str) -> None:
            nonlocal begun
            progress.update(task, completed=begun, description=text)
            begun += 1

        yield advance


def parser() -> argparse.ArgumentParser:
    """The arguments of the tool."""
    made = argparse.ArgumentParser(
        prog="lit-distill evaluate",
        description="Train fresh networks on a distilled set and test them on real images. The same is done with "
        "random real images and with those that herding chooses, as many and under the same recipe.",
    )
    made.add_argument(
        "folders",
        type=Path,
        nargs="+",
        metavar="FOLDER",
        help="the set, as the fit printed it; several are of one method, distilled from several seeds",
    )
    made.add_argument(
        "--recipe",
        help=f"how networks are trained: {', '.join(sorted(RECIPES))}; default: what the set's card recommends",
    )
    made.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change the recipe, e.g. --set epochs=300"
    )
    made.add_argument("--models", default="convnet", help="comma-separated, e.g. convnet,resnet18,vgg11 (convnet)")
    made.add_argument("--networks", type=int, default=5, help="networks of each kind and for each set (5)")
    made.add_argument(
        "--width", type=int, help="of convnet; default: that of the network it was distilled with, or 128"
    )
    made.add_argument("--split", choices=["test", "val"], default="test", help="what is tested on (test)")
    made.add_argument("--seed", type=int, default=0, help="of the networks and their training (0)")
    made.add_argument(
        "--teacher",
        help="a preset such as teachers/resnet20_fashion_mnist, trained first if need be, or a run folder: all sets "
        "are tried with its answers as labels too, and herding compares its features",
    )
    made.add_argument("--config", help="preset with the real images; default: that of the run that made the set")
    made.add_argument("--device", help="e.g. cpu; default: a GPU where there is one")
    return made


def changed(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """A recipe with some numbers of one's own.

    Args:
        recipe: The recipe.
        settings: ``name=value``.

    Raises:
        InputError: When a recipe has no such number, or not such a value.

    Example:
        >>> changed(recipe_of("dsa"), ["epochs=10"]).epochs
        10
    """
    accepted = asdict(recipe)
    for item in settings:
        name, equals, _ = item.partition("=")
        if not equals:
            raise InputError(f"set: {item!r} given; accepted is name=value")
        if name not in accepted:  # the parser would take a beginning of a name too
            raise InputError(f"set: a recipe has no {name}; accepted are {', '.join(accepted)}")
    take = Parser(exit_on_error=False)
    take.add_class_arguments(Recipe)
    take.set_defaults(accepted)
    return Recipe(**take.parse_args([f"--{item}" for item in settings]).as_dict())


def data_of(folder: Path, card: Mapping[str, Any], config: str | None) -> ImageData:
    """The real images that a set was made of.

    Args:
        folder: The set's folder; beside it is the config of its run, unless it was moved.
        card: The set's card.
        config: A preset to read instead.

    Raises:
        InputError: When nothing says what they are.
    """
    file = folder.absolute().parent / "config.yaml" if config is None else find(config)
    named = card["about"].get("data")
    if file.is_file():
        settings = (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("data")
    else:
        settings = {"class_path": named} if hasattr(lit_distill.data, str(named)) else None
    if not isinstance(settings, dict):
        raise InputError(f"config: {folder} does not say which data it was made of; give --config PRESET")
    take = Parser(exit_on_error=False)
    take.add_argument("--data", type=LightningDataModule)
    made = take.instantiate_classes(take.parse_object({"data": settings})).data
    data = made.data if isinstance(made, ClassBatches) else made
    if not isinstance(data, ImageData):
        raise InputError(f"config: {type(data).__name__} is no set of labelled images")
    return data


def teacher_of(name: str) -> nn.Module:
    """A trained network.

    Args:
        name: Of a preset, whose student it is, in ``teachers`` or trained now; or the folder of a run.

    Raises:
        InputError: When it is neither.
    """
    if Path(name).is_dir():
        return student_of(Path(name), Path(name, "student.safetensors"))[0]
    preset = find(name)
    settings = yaml.safe_load(preset.read_text(encoding="utf-8")).get("model", {}).get("init_args", {}).get("student")
    if settings is None:
        raise InputError(f"teacher: {preset} trains no student")
    take = Parser(exit_on_error=False)
    take.add_argument("--network", type=nn.Module)
    network = take.instantiate_classes(take.parse_object({"network": settings})).network
    return lit_distill.models.restored(network, f"teachers/{preset.stem}.safetensors", str(preset))


def device_of(name: str | None) -> str:
    """Where to compute.

    Args:
        name: As the user gave it. Default: a GPU where there is one.

    Raises:
        InputError: When there is no such device.
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device: {name} cannot be used ({next(iter(str(error).splitlines()), '')})") from error
    return name


def width_of(settings: Any) -> int | None:
    """The width of the ConvNet that settings describe, if they do.

    Args:
        settings: Plain values.

    Example:
        >>> width_of({"network": {"class_path": "CondensationConvNet", "init_args": {"width": 32}}})
        32
    """
    if isinstance(settings, Mapping):
        if str(settings.get("class_path")).endswith("CondensationConvNet"):
            return (settings.get("init_args") or {}).get("width")
        return next((found for value in settings.values() if (found := width_of(value))), None)
    if isinstance(settings, list):
        return next((found for value in settings if (found := width_of(value))), None)
    return None


def title(card: Mapping[str, Any], recipe: str, options: argparse.Namespace, width: int) -> str:
    """What the numbers are, in one line."""
    about = card["about"]
    method = about.get("method") or about.get("synthetic") or "a set"
    size = f", convnet of width {width}" if "convnet" in options.models.split(",") else ""
    what = f"{method} on {about.get('data')}, {card['images_per_class']} a class"
    return f"{what}: {options.split} accuracy in percent; recipe {recipe}, {options.networks} networks each{size}"


def show(rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Print the table.

    Args:
        rows: What the evaluation gave.
        title: Above it.
    """
    shown = Table(title=title, title_justify="left")
    for column in ("set", "labels", *models(rows)):
        shown.add_column(column)
    for pair, cells in cells_of(rows).items():
        shown.add_row(*pair, *cells)
    Console(file=sys.stdout).print(shown)
