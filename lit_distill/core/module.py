"""The root of every LightningModule here."""

import math
from typing import Any, Literal

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable

# Private, and pinned by tests/core/test_module.py: tells whether the CLI supplies the hyperparameters.
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lit_distill.core.checkpoints import WholeFiles
from lit_distill.core.hparams import objects
from lit_distill.core.overrule import overrule
from lit_distill.core.rng import RNGStates, rng_states, set_rng_states
from lit_distill.core.strategies import shard, unsharded
from lit_distill.errors import InputError

LOOK_EVERY = 50


class DistillModule(L.LightningModule):
    """What every family's LightningModule stands on.

    It builds the optimizer over the trainable parameters, keeps only plain values in the hyperparameters, shards
    every trainable child under FSDP2, and stops at the first loss that is not a number. A run that is killed and
    resumed from its last checkpoint ends where it would have ended: checkpoint files are whole at any time, and
    hold the random-number states of every rank.

    Args:
        optimizer: Callable from parameters to an optimizer, e.g. ``torch.optim.SGD`` with its arguments.
        scheduler: Callable from the optimizer to a learning-rate scheduler. One that follows a metric is
            ``lightning.pytorch.cli.ReduceLROnPlateau`` with its ``monitor``; Lightning does not tell it the metric of
            the epoch in which a run is resumed.
        scheduler_interval: Whether the scheduler steps after each epoch or after each optimizer step.
    """

    def __init__(
        self,
        optimizer: OptimizerCallable,
        scheduler: LRSchedulerCallable | None = None,
        scheduler_interval: Literal["epoch", "step"] = "epoch",
    ) -> None:
        super().__init__()
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.scheduler_interval = scheduler_interval
        self._sharded = False
        self._rng_states: RNGStates | None = None
        # The CLI hands over its own plain dicts, from which load_from_checkpoint rebuilds the objects.
        ignore = () if _given_hyperparameters.get() else objects(type(self))
        self.save_hyperparameters(logger=False, ignore=ignore)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer over every parameter that requires a gradient, and its scheduler if there is one.

        Raises:
            InputError: When the optimizer refuses its arguments.
        """
        try:
            optimizer = self.optimizer([p for p in self.parameters() if p.requires_grad])
        except ValueError as error:
            raise InputError(f"optimizer: {error}") from error
        if self.scheduler is None:
            return optimizer
        config: dict[str, Any] = {
            "scheduler": (scheduler := self.scheduler(optimizer)),
            "interval": self.scheduler_interval,
        }
        if (monitor := getattr(scheduler, "monitor", None)) is not None:  # ReduceLROnPlateau as the CLI knows it
            config["monitor"] = monitor
        return {"optimizer": optimizer, "lr_scheduler": config}  # type: ignore[return-value]

    def configure_model(self) -> None:
        """Shard the networks under FSDP2; elsewhere nothing happens.

        Raises:
            InputError: When a trainable parameter stays outside every sharded child.
        """
        if self.device_mesh is None or self._sharded:
            return
        self._sharded = True  # Lightning calls this hook once for fit and again for test
        for network in self.networks_to_shard():
            shard(network, mesh=self.device_mesh["data_parallel"])
        if left := unsharded(self):
            raise InputError(
                f"model: {', '.join(left[:5])} of {type(self).__name__} would train unsharded and drift apart between "
                "ranks; return the module that holds it from networks_to_shard()"
            )

    def networks_to_shard(self) -> list[nn.Module]:
        """The children whose ``forward`` runs in a training step; a subclass with others adds them.

        The LightningModule itself cannot be sharded: Lightning calls ``training_step`` and not ``forward``, so
        its parameters would never be gathered.
        """
        return [child for child in self.children() if any(p.requires_grad for p in child.parameters())]

    def share(self, rows: int) -> Tensor | float:
        """What this rank's mean over ``rows`` samples counts for in the mean over all ranks.

        Data-parallel training averages gradients over ranks as if all had equally many samples; multiplying
        the loss by this makes an unequal last batch count as it does on one process. 1 on a single process.
        """
        if (ranks := self._ranks()) == 1:
            return 1.0
        total = torch.full((), float(rows), device=self.device)  # which makes no GPU wait, as a copy would
        torch.distributed.all_reduce(total)
        return rows * ranks / total

    def stop_at_nan(self, loss: Tensor, terms: dict[str, Tensor]) -> None:
        """Raise when a loss is not finite, before it reaches the weights or a checkpoint.

        All ranks raise together, whichever of them has the loss: one that stopped alone would leave the others
        waiting. Asking a GPU for a number makes it wait, so there the loss is looked at every 50 steps, and the
        weights before each checkpoint.

        Args:
            loss: The weighted sum, a scalar.
            terms: The unweighted terms by name, for the message.

        Raises:
            InputError: Naming the step and the value of each term, the mean over ranks.
        """
        if loss.device.type != "cpu" and self.global_step % LOOK_EVERY:
            return
        values = torch.stack([loss.detach(), *(value.detach() for value in terms.values())]).float()
        if (ranks := self._ranks()) > 1:
            torch.distributed.all_reduce(values)
        total, *means = (values / ranks).tolist()
        if not math.isfinite(total):
            named = ", ".join(f"{name} {mean:.4g}" for name, mean in zip(terms, means, strict=True))
            raise InputError(
                f"train/loss is {total} at step {self.global_step} ({named}); lower the learning rate or the weight of "
                "the term that blew up, or clip gradients (--trainer.gradient_clip_val=1)"
            )

    def on_fit_start(self) -> None:
        """Let no checkpoint file be half written, unless the trainer was given another way to write them."""
        strategy = self.trainer.strategy
        if type(strategy.checkpoint_io) is TorchCheckpointIO:
            strategy.checkpoint_io = WholeFiles()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add every rank's random-number state, and refuse to save weights that are not numbers."""
        if broken := self._not_finite():
            raise InputError(
                f"{broken} is not finite at step {self.global_step}, so no checkpoint is written and the previous "
                "one stands; lower the learning rate or clip gradients (--trainer.gradient_clip_val=1)"
            )
        checkpoint["rng_states"] = rng_states()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let changed settings win, and remember the random-number states until training goes on.

        Set-up draws random numbers of its own, so they are restored when it is done.
        """
        if self._trainer is not None and self.trainer.state.fn == "fit":
            overrule(checkpoint, self.hparams)
            self._rng_states = checkpoint.get("rng_states")

    def on_train_start(self) -> None:
        """Restore the random-number states of the run that is being resumed."""
        if self._rng_states is not None:
            set_rng_states(self._rng_states)
            self._rng_states = None
        # Lightning 2.6 forgets that an epoch has begun when it resumes from a checkpoint of the last batch of the one
        # before; a checkpoint of this epoch would then be resumed with batches that were seen already.
        loop, progress = self.trainer.fit_loop, self.trainer.fit_loop.epoch_progress
        if loop.restarted_mid_epoch and progress.current.ready == progress.current.completed:
            progress.increment_ready()
            progress.increment_started()

    def _not_finite(self) -> str | None:
        """Name of the first trainable parameter that is not finite on some rank; the same answer on all ranks."""
        trained = {name: p.detach() for name, p in self.named_parameters() if p.requires_grad}
        if not trained:
            return None
        parts = [p.to_local() if isinstance(p, DTensor) else p for p in trained.values()]
        finite = torch.stack([torch.isfinite(part).all() for part in parts]).int()
        if self._ranks() > 1:
            torch.distributed.all_reduce(finite, torch.distributed.ReduceOp.MIN)
        return next((name for name, fine in zip(trained, finite.tolist(), strict=True) if not fine), None)

    def _ranks(self) -> int:
        return 1 if self._trainer is None else self.trainer.world_size
