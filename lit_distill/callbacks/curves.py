"""A picture of the run."""

import math
from typing import TYPE_CHECKING, Any

import lightning as L

from lit_distill.callbacks.folder import run_folder
from lit_distill.callbacks.means import EpochMeans
from lit_distill.errors import InputError
from lit_distill.student_file import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = dict[str, dict[int, float]]

# Metrics with a panel of their own, whatever the stage.
TITLES = {
    "agreement": "Agreement with the teacher",
    "cka": "Similarity to the teacher (CKA)",
    "ece": "Calibration error",
    "kl": "Divergence from the teacher (nats)",
    "map": "Mean average precision",
    "map_50": "Average precision at an IoU of 0.5",
    "miou": "Mean intersection over union",
    "grad_cosine": "Cosine between gradients of terms",
    "grad_norm": "Gradient norms of terms",
}


class Curves(L.Callback):
    """Draws every logged number over the epochs, at the end of a fit, as a PNG in the run's folder.

    What is logged at steps is averaged over each epoch. What the teacher reaches is a dashed line across the
    student's. Checkpoints hold the numbers so far, so that a resumed run draws whole curves. An interrupted run and
    ``fast_dev_run`` draw nothing.

    Args:
        filename: Name of the picture; ends in ``.png``.

    Raises:
        InputError: When ``filename`` ends otherwise.
    """

    def __init__(self, filename: str = "curves.png") -> None:
        if not filename.endswith(".png"):
            raise InputError(f"filename: {filename!r} given to Curves; accepted are names that end in .png")
        self.filename = filename
        self.points: Points = {}
        self._means = EpochMeans()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to average; a run resumed within an epoch has no other beginning."""
        self._means.start(trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to average."""
        self._means.start(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add what this step logged."""
        self._means.add(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record the epoch."""
        metrics = trainer.callback_metrics | self._means.means()
        self._record(trainer, {name: value for name, value in metrics.items() if not name.startswith("val")})

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record the validation, which may come in the middle of an epoch or only after several."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            metrics = trainer.callback_metrics
            self._record(trainer, {name: value for name, value in metrics.items() if name.startswith("val")})

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        path = run_folder(trainer) / self.filename
        if not trainer.is_global_zero or not self.points:
            return
        batches = trainer.num_training_batches
        steps = math.ceil(batches / trainer.accumulate_grad_batches) if math.isfinite(batches) else None
        path.parent.mkdir(parents=True, exist_ok=True)
        figure = draw(self.points, steps or None)
        write_whole(path, lambda file: figure.savefig(file, format="png", dpi=150))

    def state_dict(self) -> dict[str, Any]:
        """The numbers so far."""
        return {"points": self.points}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the numbers of a checkpoint."""
        self.points = state_dict["points"]

    def _record(self, trainer: L.Trainer, metrics: dict[str, Any]) -> None:
        for name, value in metrics.items():
            self.points.setdefault(name, {})[trainer.global_step] = float(value)


def draw(points: Points, steps_per_epoch: int | None) -> "Figure":
    """A figure with a panel for each kind of number.

    Args:
        points: Values by optimizer step, by name.
        steps_per_epoch: Optimizer steps of an epoch, the unit of the horizontal axis; ``None``: single steps.
    """
    # Here, and without pyplot: importing matplotlib takes a second that a command line without a picture need not
    # wait, and pyplot would keep every figure alive and ask for a display.
    from matplotlib.figure import Figure

    panels: dict[str, list[str]] = {}
    for name in sorted(points, key=_order):
        panels.setdefault(_panel(name), []).append(name)
    columns = min(len(panels), 3)
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(5.0 * columns, 3.4 * rows), layout="constrained")
    for index, (title, names) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        for name in names:
            _curve(axes, name, points[name], steps_per_epoch or 1)
        _dress(axes, title, [value for name in names for value in points[name].values()])
        axes.set_xlabel("epoch" if steps_per_epoch else "step", fontsize=8)
    return figure


def _curve(axes: "Axes", name: str, values: dict[int, float], unit: int) -> None:
    x, y = [step / unit for step in values], list(values.values())
    label = f"{name}  {y[-1]:.4g}"
    if name.startswith("val/teacher_"):
        axes.axhline(y[-1], color="0.35", linestyle="--", linewidth=1.2, label=label)
        return
    marker = "o" if len(x) <= 12 else None
    leading = name == "train/loss" or name.startswith("val/")
    axes.plot(
        x,
        y,
        label=label,
        marker=marker,
        markersize=3,
        linewidth=2.0 if leading else 1.2,
        color="black" if name == "train/loss" else None,
    )


def _dress(axes: "Axes", title: str, values: list[float]) -> None:
    axes.set_title(title, fontsize=10, loc="left", fontweight="bold")
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.margins(x=0.02)
    if title == TITLES["grad_cosine"]:
        axes.axhline(0, color="0.35", linewidth=0.8)
    finite = [value for value in values if math.isfinite(value)]
    # Terms of one objective often differ by orders of magnitude.
    if finite and min(finite) > 0 and max(finite) > 50 * min(finite):
        axes.set_yscale("log")
    axes.legend(fontsize=7, framealpha=0.8, edgecolor="none")


def _panel(name: str) -> str:
    head, _, tail = name.rpartition("/")
    if "acc" in tail.split("_"):
        return "Accuracy"
    if head == "train" or name == "val/loss":
        return "Terms of the loss"
    tail = tail.removeprefix("teacher_")
    return TITLES.get(tail) or TITLES.get(head) or (tail if head == "val" else head or name)


def _order(name: str) -> tuple[int, bool, str]:
    first = ["Terms of the loss", "Accuracy", *TITLES.values()]
    panel = _panel(name)
    return (first.index(panel) if panel in first else len(first), name != "train/loss", name)
