"""The loop of dataset distillation."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer

from lit_distill.core.module import DistillModule
from lit_distill.data.class_batches import ClassBatches
from lit_distill.dataset.artifact import save_distilled
from lit_distill.dataset.augment import SiameseAugmentation
from lit_distill.dataset.networks.base import NetworkSampler
from lit_distill.dataset.objectives.base import Objective
from lit_distill.dataset.recipe import recipe_of
from lit_distill.dataset.step import Labelled, Purpose, Step, generator
from lit_distill.dataset.synthetic.base import SyntheticSet
from lit_distill.errors import InputError


class DatasetDistiller(DistillModule):
    """Distils a dataset: learns a small set of images on which networks train nearly as well as on all.

    A method is a synthetic set, an objective and a sampler of networks, each of which can be exchanged:

    - ``synthetic``: what is learned (:class:`Pixels`, ...);
    - ``objective``: how far it is from doing what the real data does (:class:`DistributionMatching`, ...);
    - ``networks``: in whose eyes (:class:`Fresh`, ...);
    - ``augment``: what real and synthetic images both go through.

    The data is a :class:`ClassBatches`. A step is one step of the optimizer, and ``--trainer.max_steps`` says how many.
    With several processes each one works on some of the classes, and the set is the same as with one.

    All random numbers depend on the data's ``seed`` and the number of the batch: the global generators are left alone,
    and a run that was interrupted goes on as it would have. Logs ``train/loss``.

    A set that nothing learns, real images that were selected for example, takes neither objective nor networks nor
    optimizer: ``fit`` makes it and ends.

    Args:
        synthetic: The synthetic set.
        objective: The loss of a step.
        networks: Gives each step its network.
        optimizer: Callable from parameter groups to an optimizer.
        scheduler: Callable from the optimizer to a learning-rate scheduler, which steps after each step.
        augment: Differentiable augmentation of both sides. Default: none.
        recipe: By which recipe of ``lit-distill evaluate`` networks are best trained on the set; its files say so.
        input_shape: Channels, height and width of an image; the command line links it to the data.

    Raises:
        InputError: When only some of objective, networks and optimizer are given, or the data is no
            :class:`ClassBatches`.
    """

    def __init__(
        self,
        synthetic: SyntheticSet,
        objective: Objective | None = None,
        networks: NetworkSampler | None = None,
        optimizer: OptimizerCallable | None = None,
        scheduler: LRSchedulerCallable | None = None,
        augment: SiameseAugmentation | None = None,
        recipe: str | None = None,
        input_shape: tuple[int, ...] | None = None,
    ) -> None:
        if len({part is None for part in (objective, networks, optimizer)}) > 1:
            raise InputError(
                "objective, networks and optimizer go together: give all of them, or none to learn nothing"
            )
        super().__init__(optimizer, scheduler, scheduler_interval="step")  # type: ignore[arg-type]
        self.synthetic = synthetic
        self.objective = objective
        self.networks = networks
        self.augment = augment
        if recipe is not None:
            recipe_of(recipe)
        self.recipe = recipe
        self.input_shape = input_shape
        self._built = False

    def setup(self, stage: str) -> None:
        """Make the synthetic set, and fill it for the first step.

        Raises:
            InputError: When the data is of another kind.
        """
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, ClassBatches):
            raise InputError(f"data: {type(data).__name__} has no classes to distil; accepted is ClassBatches")
        self.seed = data.seed
        if self._built:
            return
        self._built = True
        if self.networks is not None:
            self.networks.start(data, self.trainer.strategy.root_device)
        self.synthetic.build(data.num_classes, data.input_shape)
        self.synthetic.to(self.trainer.strategy.root_device)  # as Lightning will: a set may ask a network how to start
        self.synthetic.start(data, generator(self.seed, Purpose.START))
        if self.objective is not None and self.networks is not None:
            self.objective.start(self.synthetic, self.networks, data, generator(self.seed, Purpose.START, 1))

    def on_fit_start(self) -> None:
        """End the fit before its first step where there is nothing to learn."""
        super().on_fit_start()
        if self.objective is None:
            self.trainer.fit_loop.epoch_loop.max_steps = 0

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer over what the synthetic set learns, in its groups, and over what other parts learn."""
        if self.objective is None:
            return torch.optim.SGD([{"params": []}], lr=0.0)  # of nothing, as Lightning warns where there is none
        groups = [*self.synthetic.parameter_groups(), *self.objective.parameter_groups()]
        known = {id(p) for group in groups for p in group["params"]}
        others = [p for p in self.parameters() if p.requires_grad and id(p) not in known]
        groups += [{"params": others}] if others else []
        try:
            optimizer = self.optimizer(groups)
        except ValueError as error:
            raise InputError(f"optimizer: {error}") from error
        if self.scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "step"}}

    def step(self, batch: tuple[Tensor, Tensor]) -> Step:
        """What the parts get to see of a batch.

        Args:
            batch: Real images class by class, and their classes.
        """
        x, target = batch
        classes = target.unique_consecutive()
        shape = (len(classes), -1)
        real = Labelled(x.unflatten(0, shape), target.unflatten(0, shape))
        number = self.trainer.fit_loop.total_batch_idx
        return Step(self.seed, number, classes, real, self.synthetic, self.augment)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The objective on this process's classes."""
        assert self.objective is not None
        assert self.networks is not None
        self._step = step = self.step(batch)
        loss = self.objective(step, self.networks.draw(step))
        self.stop_at_nan(loss, {"loss": loss})
        self.log("train/loss", loss.detach(), prog_bar=True, sync_dist=True, reduce_fx="sum")
        return loss * self._ranks()  # data-parallel training takes the mean over processes, and this is a sum

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Let the objective look at the gradients."""
        if self.objective is not None:
            self.objective.before_update([p for group in optimizer.param_groups for p in group["params"]])

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Let the synthetic set and the networks follow the step; callbacks that write checkpoints come after this."""
        super().optimizer_step(*args, **kwargs)
        self.synthetic.project()
        if self.networks is not None:
            self.networks.advance(self._step)

    @torch.no_grad()
    def save(self, folder: str | Path) -> Path:
        """Write the set as it is now: images, labels, a card and a picture; see :class:`DistilledDataset`.

        Args:
            folder: Where they go.

        Returns:
            The folder.
        """
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        about = {
            "method": None if self.objective is None else type(self.objective).__name__,
            "synthetic": type(self.synthetic).__name__,
            "data": type(data.data).__name__,
            "seed": self.seed,
            "steps": self.global_step,
            "config": dict(self.hparams) or None,
        }
        return save_distilled(
            folder,
            self.synthetic.kept(),
            data.num_classes,
            data.mean,
            data.std,
            soft=self.synthetic.soft,
            augment=self.augment,
            step_size=None if self.objective is None else self.objective.step_size(),
            recipe=self.recipe,
            about=about,
        )
