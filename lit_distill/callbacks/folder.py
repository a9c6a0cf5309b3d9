"""Where a run keeps its files."""

from pathlib import Path

import lightning as L


def run_folder(trainer: L.Trainer) -> Path:
    """The folder of this run: the one in which ``ModelCheckpoint`` makes ``checkpoints``; all ranks must call this.

    ``trainer.log_dir`` is that folder for CSV and TensorBoard loggers, but for others (Weights & Biases) it is one
    that all runs share, where the files of the next run would replace those of this one.

    Args:
        trainer: The trainer of the run.
    """
    folder = Path(trainer.default_root_dir)
    if trainer.loggers:
        logger = trainer.loggers[0]
        version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
        folder = Path(logger.save_dir or folder, str(logger.name), version)
    # Only rank 0's logger knows the name of its run.
    return Path(trainer.strategy.broadcast(str(folder)))
