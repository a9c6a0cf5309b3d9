"""``lit-distill relabel``: store what a teacher says about crops and mixtures of a distilled set."""

import argparse
from pathlib import Path

import torch

from lit_distill.cli.evaluate import data_of, teacher_of
from lit_distill.cli.trainer import short_errors
from lit_distill.dataset.artifact import load_card
from lit_distill.dataset.recipe import recipe_of
from lit_distill.dataset.relabelling import relabel
from lit_distill.dataset.soft_views import Views
from lit_distill.store.files import DTYPES


def run(arguments: list[str]) -> int:
    """Relabel a distilled set.

    Args:
        arguments: What follows ``lit-distill relabel``.

    Returns:
        0; errors are raised.
    """
    options = parser().parse_args(arguments)
    with short_errors():
        card = load_card(options.folder)
        recipe = recipe_of(options.recipe or card["recipe"] or "sre2l")
        flip = getattr(data_of(options.folder, card, options.config), "flip", True)
        smallest = recipe.smallest_crop if recipe.augment == "crops" else 1.0
        views = Views(options.seed, smallest, flip, recipe.cutmix)
        stored = relabel(
            options.folder,
            teacher_of(options.teacher),
            options.views or recipe.epochs,
            views,
            options.topk,
            options.dtype,
            options.statistics,
            options.batch_size,
            options.device or ("cuda" if torch.cuda.is_available() else "cpu"),
        )
    folder, card = stored.answers.folder, stored.card
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    print(
        f"{card['views']} views of {card['samples']} images, the {card['topk']} likeliest of {card['classes']} classes "
        f"({size:.1f} MB): {folder}"
    )
    return 0


def parser() -> argparse.ArgumentParser:
    """The arguments of the tool."""
    made = argparse.ArgumentParser(
        prog="lit-distill relabel",
        description="Ask a teacher about random crops and mixtures of a distilled set, and store its answers beside "
        "the images. `lit-distill evaluate` then trains on these as well. A run that was interrupted is continued by "
        "the same command.",
    )
    made.add_argument("folder", type=Path, metavar="FOLDER", help="the set, as the fit printed it")
    made.add_argument(
        "--teacher",
        required=True,
        help="a preset such as teachers/resnet20_fashion_mnist, trained first if need be, or a run folder",
    )
    made.add_argument(
        "--recipe", help="whose crops, mixtures and epochs; default: what the set's card recommends, or sre2l"
    )
    made.add_argument("--views", type=int, help="views of each image; default: one for each epoch of the recipe")
    made.add_argument("--topk", type=int, default=10, help="classes to keep (10)")
    made.add_argument("--dtype", choices=sorted(DTYPES), default="float16", help="of log-probabilities (float16)")
    made.add_argument(
        "--statistics",
        choices=["running", "batch"],
        default="running",
        help="what the teacher's BatchNorm layers normalise by; batch is CV-DD's (running)",
    )
    made.add_argument("--batch-size", type=int, default=100, help="images that the teacher sees at once (100)")
    made.add_argument("--seed", type=int, default=0, help="of crops and mixtures (0)")
    made.add_argument("--config", help="preset with the real images; default: that of the run that made the set")
    made.add_argument("--device", help="e.g. cpu; default: a GPU where there is one")
    return made
