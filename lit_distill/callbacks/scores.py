"""What callbacks that score training samples share."""

from typing import Any

import lightning as L
import torch
from torch import Tensor

from lit_distill.callbacks.student import student_of
from lit_distill.data import ImageData
from lit_distill.data.score_file import save_scores
from lit_distill.errors import InputError


def data_of(trainer: L.Trainer, callback: L.Callback) -> ImageData:
    """The data module whose samples are scored.

    Args:
        trainer: The trainer of the run.
        callback: Who asks.

    Raises:
        InputError: When the run has no data module of this library.
    """
    data = trainer.datamodule  # type: ignore[attr-defined]
    if not isinstance(data, ImageData):
        name = type(callback).__name__
        raise InputError(f"callbacks: {name} scores samples of a lit_distill data module; this run has none")
    return data


def write(path: str, scores: Tensor, trainer: L.Trainer, callback: L.Callback, **facts: Any) -> None:
    """Write the scores of the samples that were trained on; every rank must call this.

    Args:
        path: The file.
        scores: A score at each position of the training set, ``(N,)``.
        trainer: The trainer of the run.
        callback: Who scored.
        **facts: What else the card says.
    """
    data, module = data_of(trainer, callback), trainer.lightning_module
    part = data.parts["train"]
    if trainer.is_global_zero:
        own = torch.full((len(scores),), torch.nan)
        own[part.positions] = scores.float().cpu()[part.positions]
        about = {
            "score": type(callback).__name__,
            "data": type(data).__name__,
            "network": type(student_of(module, callback)).__name__,
            "seed": data.seed,
            "split_seed": data.split_seed,
            "val_fraction": data.val_fraction,
        }
        save_scores(path, own, part.images.targets, about | facts)
    trainer.strategy.barrier()  # so that every rank can read what it has just saved
