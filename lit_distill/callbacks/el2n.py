"""How hard each training sample is, a few epochs into training."""

import lightning as L
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.nn.functional import one_hot

from lit_distill.callbacks.scores import data_of, write
from lit_distill.callbacks.student import student_of
from lit_distill.data import ImageData, SequentialBatchSampler
from lit_distill.data.score_file import checked
from lit_distill.errors import InputError
from lit_distill.losses.precision import fp32


@fp32
def error_norm(logits: Tensor, target: Tensor) -> Tensor:
    r"""Norm of the error of each answer, :math:`\| p - y \|_2`: ``(B, C)`` and classes ``(B,)`` to ``(B,)``.

    Example:
        >>> error_norm(torch.zeros(1, 2), torch.tensor([0]))  # the root of 1/4 + 1/4
        tensor([0.7071])
    """
    return torch.linalg.vector_norm(logits.softmax(-1) - one_hot(target, logits.shape[-1]), dim=-1)


class EL2N(L.Callback):
    r"""Records the norm of the student's error on every training sample, a few epochs into training (EL2N).

    Paper: Paul et al., Deep Learning on a Data Diet: Finding Important Examples Early in Training, NeurIPS 2021,
        https://arxiv.org/abs/2107.07075

    .. math:: \| p(x_i) - y_i \|_2

    with the probabilities p of the student in eval mode after ``epoch`` epochs, on images as they are, neither
    augmented nor mixed. The higher it is, the harder the sample. ``ScoredSubset`` trains on a part of the samples that
    is chosen by it; give it the files of several runs with other seeds, as the authors average ten, and the mean
    counts.

    Training itself does not change by a bit. A run that ends before ``epoch``, and ``fast_dev_run``, write nothing.

    Args:
        path: The file of scores; ends in ``.safetensors``. A card lies beside it.
        epoch: After how many epochs samples are scored, counted from 1; the authors take 20 of 200 on CIFAR.

    Raises:
        InputError: When ``path`` has another suffix, ``epoch`` is below 1, the module has no student, or the run has
            no data module of this library.

    Traps:
        - Samples held out for validation have no score: train on a subset with the same ``val_fraction`` and
          ``split_seed``.
        - Where labels are wrong the error stays large: of the hardest samples many teach nothing.

    Code: ``mansheej/data_diet:data_diet/scores.py`` (l2_error), equal to this.
    """

    def __init__(self, path: str, epoch: int = 20) -> None:
        if epoch < 1:
            raise InputError(f"epoch: {epoch} given to EL2N; accepted is a number of epochs of at least 1")
        self.path = str(checked(path))
        self.epoch = epoch

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Check that there is something to score."""
        if stage == "fit":
            data_of(trainer, self)
            student_of(pl_module, self)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Score all samples, once, at the end of a whole epoch."""
        if trainer.current_epoch + 1 != self.epoch or not _whole_epochs(trainer):
            return
        data = data_of(trainer, self)
        modes = [(module, module.training) for module in pl_module.modules()]
        pl_module.eval()
        try:
            scores = self.scores(trainer, pl_module, data)
        finally:
            for module, mode in modes:
                module.training = mode
        write(self.path, scores, trainer, self, epoch=self.epoch)

    @torch.no_grad()
    def scores(self, trainer: L.Trainer, pl_module: L.LightningModule, data: ImageData) -> Tensor:
        """The score at each position of the training set, ``(N,)``; 0 where the run does not train.

        Args:
            trainer: The trainer of the run.
            pl_module: The module in training, in eval mode.
            data: Its data.
        """
        part = data.parts["train"]
        scores = torch.zeros(len(part.images.targets), device=pl_module.device)
        for batch in data.loader(part, SequentialBatchSampler):
            raw = move_data_to_device(batch, pl_module.device)
            x, target = data.on_after_batch_transfer(raw)[:2]
            with trainer.precision_plugin.forward_context():
                logits = pl_module(x)
            scores[raw.position] = error_norm(logits, target).to(scores.dtype)
        # each rank scored its share
        return trainer.strategy.reduce(scores, reduce_op="max")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say so if nothing was recorded."""
        done = trainer.current_epoch if _whole_epochs(trainer) else 0
        if done < self.epoch and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            rank_zero_warn(f"EL2N: training ended after {done} whole epochs, before epoch {self.epoch}; no {self.path}")


def _whole_epochs(trainer: L.Trainer) -> bool:
    """Whether every epoch trains on all samples; a short look at a preset does not, and must leave nothing behind."""
    batches = trainer.num_training_batches
    return not trainer.fast_dev_run and batches == len(trainer.train_dataloader)  # type: ignore[attr-defined,arg-type]
