"""The student alone, at the end of a run."""

from pathlib import Path
from typing import Any

import lightning as L

from lit_distill.callbacks.ema import StudentEMA
from lit_distill.callbacks.folder import run_folder
from lit_distill.callbacks.student import student_of
from lit_distill.student_file import checked, save_student


class StudentFile(L.Callback):
    """Writes the student alone at the end of a finished run: safetensors, and a JSON card beside them.

    With a :class:`StudentEMA` the file holds the student's average, the one that was validated. An interrupted run
    and ``fast_dev_run`` write nothing. Read it with :func:`lit_distill.student_file.load_card` and
    ``safetensors.torch.load_file``.

    The card says: versions, the path of the student's class, its number of parameters, when it was made, ``which``
    weights these are (``last`` or ``ema``), ``epoch`` and ``global_step``, the last value of all metrics, the name of
    the data module's class with its ``num_classes``, ``input_shape``, ``mean`` and ``std`` (null where it has none),
    and the ``config`` of the module if the command line gave one.

    Args:
        path: Where the weights go; ends in ``.safetensors``. Default: ``student.safetensors`` in the run's folder.

    Raises:
        InputError: When ``path`` has another suffix, the module has no student, or the student's state holds
            something that is no tensor.
    """

    def __init__(self, path: str | None = None) -> None:
        self.path = None if path is None else checked(path)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Check that there is a student."""
        student_of(pl_module, self)

    def target(self, trainer: L.Trainer) -> Path:
        """Where the weights of this run go; every rank must ask.

        Args:
            trainer: The trainer of the run.
        """
        return run_folder(trainer) / "student.safetensors" if self.path is None else Path(self.path)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the file and its card."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        student = student_of(pl_module, self)
        path = self.target(trainer)
        emas = [callback for callback in trainer.callbacks if isinstance(callback, StudentEMA)]  # type: ignore[attr-defined]
        if emas:
            with emas[0].averaged(student):
                save_student(student, path, card(trainer, pl_module, "ema"))
        else:
            save_student(student, path, card(trainer, pl_module, "last"))


def card(trainer: L.Trainer, pl_module: L.LightningModule, which: str) -> dict[str, Any]:
    """What a run knows about its student.

    Args:
        trainer: The trainer of the run.
        pl_module: The module it trained.
        which: Which of the student's weights the card is for.
    """
    datamodule = trainer.datamodule  # type: ignore[attr-defined]
    facts = {name: getattr(datamodule, name, None) for name in ("num_classes", "input_shape", "mean", "std")}
    return {
        "which": which,
        "epoch": trainer.current_epoch,
        "global_step": trainer.global_step,
        "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
        "data": {"class": None if datamodule is None else type(datamodule).__name__, **facts},
        "config": dict(pl_module.hparams) or None,
    }
