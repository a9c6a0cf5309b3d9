"""Checkpoint files that are whole, whenever the run ends."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH


class WholeFiles(TorchCheckpointIO):
    """Writes each checkpoint beside its place, and renames it there once it is complete.

    Lightning writes into the system's folder of temporary files and moves the result. Where that folder is on
    another disk the move copies over the previous checkpoint, and a run killed meanwhile is left with neither.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any = None) -> None:
        """Write a checkpoint; anything but a local file is left to Lightning.

        Args:
            checkpoint: What to save.
            path: Where.
            storage_options: Not supported.
        """
        if storage_options is not None or "://" in str(path):
            return super().save_checkpoint(checkpoint, path, storage_options)
        file = Path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.partial")  # always the same: the next save replaces a killed one's
        try:
            torch.save(checkpoint, partial)
            os.replace(partial, file)
        finally:
            partial.unlink(missing_ok=True)
