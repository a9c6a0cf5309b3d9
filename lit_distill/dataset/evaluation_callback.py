"""What the set is worth while it is being distilled."""

from collections.abc import Callable
from dataclasses import replace
from statistics import fmean
from typing import Any

import lightning as L
import torch
from torch import nn

from lit_distill.data.class_batches import ClassBatches
from lit_distill.dataset.distiller import DatasetDistiller
from lit_distill.dataset.evaluation import Judge
from lit_distill.dataset.recipe import recipe_of
from lit_distill.errors import InputError


class Evaluation(L.Callback):
    """Trains fresh networks on the set every so many steps, and logs how they do on the validation split: ``val/acc``.

    The split is held out from the real training set and no method sees it, so that checkpoints may be selected by this
    number (``ModelCheckpoint`` with ``monitor: val/acc``); the test set is left for ``lit-distill evaluate``. The
    networks and their random numbers are the same every time, and the run goes on as it would have without them. Where
    there are several processes each trains all networks.

    Args:
        network: Builds a network. In YAML its class, e.g. ``{class_path: CondensationConvNet}`` with its arguments.
        every: Steps between two evaluations; the last step is one too. A multiple of ``trainer.log_every_n_steps``, or
            loggers will miss some.
        recipe: How networks are trained: ``dc``, ``dsa``, ``mtt``, ``dd``, ``idc``, ``sre2l``, ``rded`` or ``frepo``.
        epochs: Of the recipe. Default: as published, which takes seconds for one image a class and more for many.
        networks: How many networks; ``val/acc`` is their mean.
        seed: Of the networks and their training.

    Raises:
        InputError: When an argument is out of range, there is no such recipe, or what is trained is no set.
    """

    def __init__(
        self,
        network: Callable[[], nn.Module],
        every: int = 100,
        recipe: str = "dc",
        epochs: int | None = None,
        networks: int = 1,
        seed: int = 0,
    ) -> None:
        for name, value in (("every", every), ("networks", networks)):
            if value < 1:
                raise InputError(f"{name} must be at least 1, not {value}")
        self.network = network
        self.every = every
        self.recipe = recipe_of(recipe) if epochs is None else replace(recipe_of(recipe), epochs=epochs)
        self.networks = networks
        self.seed = seed

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Check that there is a set."""
        if not isinstance(pl_module, DatasetDistiller):
            raise InputError(
                f"callbacks: Evaluation needs a DatasetDistiller; {type(pl_module).__name__} distils no dataset"
            )

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Evaluate where it is time."""
        step = trainer.global_step
        if step % self.every == 0 or step == trainer.max_steps:
            assert isinstance(pl_module, DatasetDistiller)
            pl_module.log("val/acc", self.accuracy(trainer, pl_module), prog_bar=True)

    def accuracy(self, trainer: L.Trainer, distiller: DatasetDistiller) -> float:
        """The mean accuracy of the networks on the validation split.

        Args:
            trainer: The trainer of the run.
            distiller: What it trains.
        """
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, ClassBatches)
        with torch.no_grad():
            images, targets = (part.flatten(0, 1) for part in distiller.synthetic.kept())
        values = targets.is_floating_point() and distiller.synthetic.soft == "values"
        if targets.is_floating_point() and not values:
            targets = targets.softmax(-1)
        lr = None if distiller.objective is None else distiller.objective.step_size()
        judge = Judge(data.data, self.recipe, "val", self.seed, distiller.device)
        return fmean(
            judge.trial(
                self.network,
                number,
                images,
                targets,
                distiller.augment,
                lr=lr,
                regression=values,
            )
            for number in range(self.networks)
        )
