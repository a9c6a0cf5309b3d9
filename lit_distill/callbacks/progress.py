"""What training looks like from the terminal."""

import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme
from rich import get_console

from lit_distill.callbacks.means import EpochMeans

# Seconds between lines within an epoch, where there is no terminal to draw on.
QUIET = 60.0


class DistillProgressBar(RichProgressBar):
    """A progress bar that shows the terms of the loss; in a log file, one line for each epoch.

    The names lose what does not tell them apart: ``train/kd`` is ``kd``, ``val/acc`` stays. Where standard output is no
    terminal (a batch job, a pipe) nothing is redrawn: each epoch ends with a line of means over its steps, and an
    epoch of more than a minute says every minute how far it is.

    Args:
        refresh_rate: How many times a second the bar is drawn; 0 switches both the bar and the lines off.
    """

    def __init__(self, refresh_rate: int = 10) -> None:
        theme = RichProgressBarTheme(metrics="", metrics_text_delimiter="  ", metrics_format=".4g")
        super().__init__(refresh_rate=refresh_rate, theme=theme)
        self._live = True
        self._means = EpochMeans()
        self._began = self._spoke = 0.0

    @property
    def is_enabled(self) -> bool:
        """Whether the bar is drawn."""
        return self._live and super().is_enabled

    @property
    def writes_lines(self) -> bool:
        """Whether lines take the place of the bar."""
        return not self._live and super().is_enabled

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Find out whether there is a terminal to draw on."""
        super().setup(trainer, pl_module, stage)
        console = get_console()
        self._live = console.is_terminal or console.is_jupyter

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """What the bar shows: everything logged with ``prog_bar=True``, under short names."""
        items = super().get_metrics(trainer, pl_module)
        items.pop("v_num", None)
        return {_short(name): value for name, value in items.items()}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        super().on_train_start(trainer, pl_module)
        self._began = self._spoke = time.monotonic()
        self._means.start(trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin the epoch's bar, or its means."""
        super().on_train_epoch_start(trainer, pl_module)
        self._means.start(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar, or speak up in a long epoch."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self.writes_lines:
            self._means.add(trainer)
            if time.monotonic() - self._spoke > QUIET:
                self._line(trainer, f"batch {batch_idx + 1}/{trainer.num_training_batches}")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Finish the epoch's bar, or write its line."""
        super().on_train_epoch_end(trainer, pl_module)
        if self.writes_lines:
            self._line(trainer)

    def _line(self, trainer: L.Trainer, *where: str) -> None:
        self._spoke = time.monotonic()
        means = self._means.means()
        shown = {_short(name): float(means.get(name, value)) for name, value in trainer.progress_bar_metrics.items()}
        last = f"/{trainer.max_epochs - 1}" if trainer.max_epochs and trainer.max_epochs > 0 else ""
        numbers = [f"{name} {value:.4g}" for name, value in shown.items()]
        elapsed = time.strftime("%H:%M:%S", time.gmtime(self._spoke - self._began))
        print("  ".join([f"Epoch {trainer.current_epoch}{last}", *where, elapsed, *numbers]), flush=True)


def _short(name: str) -> str:
    return name.removeprefix("train/").removesuffix("_step").removesuffix("_epoch")
