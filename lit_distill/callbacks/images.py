"""What the networks are shown."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor
from torchvision.utils import make_grid, save_image

from lit_distill.callbacks.folder import run_folder


class ExampleImages(L.Callback):
    """Shows the first training batch, as the networks see it, to every logger and in the run folder.

    Wrong normalisation, colour order or augmentation is seen at a glance here and nowhere else.

    Args:
        count: How many images; 0 switches it off.
    """

    def __init__(self, count: int = 32) -> None:
        self.count = count
        self.shown = False

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Write the grid once, before the first step."""
        if self.shown or self.count < 1 or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self.shown = True
        folder = run_folder(trainer)  # asks all ranks, so before any of them returns
        x = batch[0] if isinstance(batch, (list, tuple)) else batch
        if not trainer.is_global_zero or not isinstance(x, Tensor) or x.ndim != 4 or x.shape[1] not in (1, 3):
            return
        grid = make_grid(pixels(x[: self.count].float().cpu(), trainer), nrow=8, padding=1, pad_value=1.0)
        folder.mkdir(parents=True, exist_ok=True)
        save_image(grid, Path(folder) / "examples.png")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("examples", [grid])
            elif isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("examples", grid)


def pixels(x: Tensor, trainer: L.Trainer) -> Tensor:
    """Images in [0, 1]: the data module's normalisation undone, or each image stretched where it has none."""
    data = getattr(trainer, "datamodule", None)
    mean, std = getattr(data, "mean", None), getattr(data, "std", None)
    if mean is not None and std is not None:
        return (x * torch.tensor(std).view(1, -1, 1, 1) + torch.tensor(mean).view(1, -1, 1, 1)).clamp(0, 1)
    low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
    return (x - low) / (high - low).clamp(min=1e-6)
