"""``lit-distill labels``: ask a preset's teacher once about every image, and store what it says."""

import argparse
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule

from lit_distill.cli.trainer import DistillCLI, cli, short_errors
from lit_distill.distiller import Distiller
from lit_distill.errors import InputError
from lit_distill.store import StoredDistiller, make_labels
from lit_distill.store.files import DTYPES

DEFAULT_TOPK = 10

#: Settings of the Trainer that give the teacher one device, and leave no trace of a training that is none.
QUIET = {
    "strategy": "auto",
    "devices": 1,
    "num_nodes": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def run(arguments: list[str]) -> int:
    """Store the answers of a preset's teacher.

    Args:
        arguments: What follows ``lit-distill labels``.

    Returns:
        0; errors are raised.
    """
    parser = argparse.ArgumentParser(
        prog="lit-distill labels",
        description="Ask a preset's teacher about every view of every training image, and store its answers. A run "
        "that was interrupted is continued by the same command.",
        epilog="All other arguments are those of `lit-distill fit`: --config PRESET, and flags such as --data.views=4.",
    )
    parser.add_argument("--views", type=int, help="ways to augment each image; default: data.views of the preset")
    parser.add_argument(
        "--topk", type=int, help=f"classes to keep; default: model.topk of the preset, or {DEFAULT_TOPK}"
    )
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="float16", help="of log-probabilities (float16)")
    parser.add_argument("--out", type=Path, help="folder to write; default: model.labels of the preset")
    options, others = parser.parse_known_args(arguments)
    if options.views is not None:
        others.append(f"--data.views={options.views}")
    with short_errors():
        made = cli(["fit", *others], LabelsCLI)
        module, data = made.model, made.datamodule
        if not isinstance(module, Distiller) or module.teacher is None:
            raise InputError(f"model: {type(module).__name__} has no teacher to ask; accepted is a Distiller with one")
        folder, topk = (module.folder, module.topk) if isinstance(module, StoredDistiller) else (None, DEFAULT_TOPK)
        folder = folder if options.out is None else options.out
        topk = topk if options.topk is None else options.topk
        if folder is None:
            raise InputError("out: not given, and the preset names no model.labels; give --out FOLDER")
        device = made.trainer.strategy.root_device
        stored = make_labels(folder, data, module.teacher.module, topk, options.dtype, device)
    card = stored.card
    size = sum(file.stat().st_size for file in stored.folder.iterdir()) / 1e6
    print(
        f"{card['views']} views of {card['samples']} images, the {card['topk']} likeliest of {card['classes']} classes "
        f"({size:.1f} MB): {stored.folder}"
    )
    return 0


class LabelsCLI(DistillCLI):
    """Builds what a preset describes, and does not fit."""

    def before_instantiate_classes(self) -> None:
        """Write nothing that a fit would write, and train no student to compare with."""
        super().before_instantiate_classes()
        self.save_config_callback = None
        config = self.config[self.subcommand]
        for name, value in QUIET.items():
            config.trainer[name] = value
        config.baseline.path = None

    def fit(self, model: LightningModule, datamodule: LightningDataModule | None = None, **kwargs: Any) -> None:
        """Takes the place of the Trainer's."""

    def after_fit(self) -> None:
        """No report: nothing was trained."""
