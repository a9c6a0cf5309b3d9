"""Training with an optimizer that wants the gradient of each term."""

from collections.abc import Callable
from functools import partial
from typing import Any

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from lit_distill.errors import InputError
from lit_distill.optim.term_sgd import TermSGD


class TermGradients(L.LightningModule):
    """A module that keeps its terms in ``last_terms``, and gives a :class:`TermSGD` the gradient of each.

    With any other optimizer it changes nothing. Automatic optimisation stays, and with it what Lightning does around a
    step: accumulation, precision, clipping, schedulers, checkpoints.
    """

    last_terms: dict[str, Tensor]

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Ask a :class:`TermSGD` for the backward passes; of anything else this is Lightning's own.

        Args:
            loss: The sum of ``last_terms``, multiplied by whatever Lightning multiplies it by.
            args: As ``torch.Tensor.backward`` takes them.
            kwargs: As ``torch.Tensor.backward`` takes them.

        Raises:
            InputError: When several ranks share the gradients in another way than ddp and fsdp2.
        """
        optimizer = self.optimizers(use_pl_optimizer=False)
        if not isinstance(optimizer, TermSGD):
            return super().backward(loss, *args, **kwargs)
        strategy = self.trainer.strategy
        if self.trainer.world_size > 1 and not isinstance(strategy, DDPStrategy | ModelParallelStrategy):
            raise InputError(
                f"trainer.strategy: {type(strategy).__name__} averages one gradient for each parameter, and "
                f"{type(optimizer).__name__} needs several; accepted are ddp and fsdp2"
            )
        # How much each term counts in the loss: a scaler's factor, and the share of an accumulated batch.
        names = [name for name, term in self.last_terms.items() if term.requires_grad]
        factors = torch.autograd.grad(loss, [self.last_terms[name] for name in names], retain_graph=True)
        scaled = {name: factor * self.last_terms[name] for name, factor in zip(names, factors, strict=True)}
        optimizer.backward(self.last_terms | scaled)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Average the gradients of a :class:`TermSGD` over ranks once they are complete."""
        inner = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        network = self.trainer.strategy.model
        if isinstance(inner, TermSGD) and isinstance(network, DistributedDataParallel):
            assert optimizer_closure is not None
            optimizer_closure = partial(self._alone, optimizer_closure, inner, network)
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)

    def _alone(self, closure: Callable[[], Any], optimizer: TermSGD, network: DistributedDataParallel) -> Any:
        # DDP exchanges the gradients of the first backward pass that follows a forward pass, and fails in the second.
        with network.no_sync():
            result = closure()
        optimizer.average()
        network.require_forward_param_sync = True  # buffers are shared after steps; DDP takes this for none
        return result
