"""``lit-distill experts``: train the experts that a preset matches, ahead of the fit that would."""

import argparse
from pathlib import Path

from lit_distill.cli.labels import LabelsCLI
from lit_distill.cli.trainer import cli, short_errors
from lit_distill.dataset import DatasetDistiller, Experts
from lit_distill.errors import InputError


def run(arguments: list[str]) -> int:
    """Train the experts of a preset that are missing.

    Args:
        arguments: What follows ``lit-distill experts``.

    Returns:
        0; errors are raised.
    """
    parser = argparse.ArgumentParser(
        prog="lit-distill experts",
        description="Train the experts whose trajectories a preset matches, as far as they are missing; `lit-distill "
        "fit` would do it too. Several of these commands at a time share the work, and one that was interrupted is "
        "continued by the same command.",
        epilog="All other arguments are those of `lit-distill fit`: --config PRESET, and flags such as "
        "--model.networks.count=10.",
    )
    _, others = parser.parse_known_args(arguments)
    with short_errors():
        made = cli(["fit", *others], LabelsCLI)
        module, data = made.model, made.datamodule
        networks = module.networks if isinstance(module, DatasetDistiller) else None
        if not isinstance(networks, Experts):
            kind = type(module if networks is None else networks).__name__
            raise InputError(f"model: {kind} has no experts; accepted is a DatasetDistiller whose networks are Experts")
        data.prepare_data()
        data.setup("fit")
        networks.start(data, made.trainer.strategy.root_device)
    size = sum(expert.file.stat().st_size for expert in networks.experts) / 1e6
    epochs = networks.experts[0].epochs
    print(f"{len(networks.experts)} experts of {epochs} epochs ({size:.1f} MB): {Path(networks.folder).absolute()}")
    return 0
