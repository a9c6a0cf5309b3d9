"""Do the terms of an objective pull the student the same way?"""

from itertools import combinations
from typing import cast

import lightning as L
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from lit_distill.callbacks.student import student_of
from lit_distill.errors import InputError


class GradientConflict(L.Callback):
    r"""Logs how the gradients of the terms on the student relate: norms, and the cosine of each pair.

    .. math:: \cos(g_i, g_j) = \frac{g_i \cdot g_j}{\|g_i\| \|g_j\|}

    where :math:`g_i` is the gradient of the weighted term :math:`i` with respect to all trainable parameters of the
    student, averaged over ranks. Logged as ``grad_cosine/<i>_<j>`` and ``grad_norm/<i>``. A negative cosine means that
    a step for one term undoes the other (Yu et al., "Gradient Surgery for Multi-Task Learning", NeurIPS 2020,
    https://arxiv.org/abs/2001.06782); a term without any gradient has cosine 0 with all.

    Training itself does not change by a bit. Each measurement costs one more backward pass for each term and, for
    its duration, the memory of one copy of the student in float32 for each term; a compiled student keeps a little
    more in memory at every step.

    Args:
        every: Optimizer steps between measurements; a multiple of ``log_every_n_steps`` falls on logged steps.

    Raises:
        InputError: When ``every`` is below 1, the module keeps no separate terms, does its own optimisation, or
            the student is sharded.
    """

    def __init__(self, every: int = 50) -> None:
        if every < 1:
            raise InputError(f"every: {every} given to GradientConflict; accepted is a number of steps of at least 1")
        self.every = every

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Let compiled students keep their activations for more than one backward pass."""
        # Read when something is compiled, at its first call; the error without it names this switch.
        torch._functorch.config.donated_buffer = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check that the gradients of separate terms can be had."""
        name = type(pl_module).__name__
        student = student_of(pl_module, self)
        if not hasattr(pl_module, "last_terms") or not pl_module.automatic_optimization:
            raise InputError(
                f"callbacks: GradientConflict needs a module that keeps its last_terms and leaves optimisation to "
                f"Lightning, as Distiller does; {name} does not"
            )
        if any(isinstance(parameter, DTensor) for parameter in student.parameters()):
            # FSDP2 gathers parameters outside autograd, so that only a real backward pass sees their gradients.
            raise InputError(
                "callbacks: GradientConflict cannot see the gradients of a sharded student; run it with strategy ddp"
            )

    def on_before_zero_grad(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """Measure, between the forward pass and the backward pass of the first micro-batch of a step."""
        # Lightning sends to its loggers after the steps with (step + 1) % log_every_n_steps == 0.
        if (trainer.global_step + 1) % self.every:
            return
        student = student_of(pl_module, self)
        parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
        last_terms = cast("dict[str, Tensor]", pl_module.last_terms)
        terms = {name: term for name, term in last_terms.items() if term.requires_grad}
        if not terms:
            return
        flat = {name: _gradient(term, parameters) for name, term in terms.items()}
        gradients = {name: trainer.strategy.reduce(g, reduce_op="mean") for name, g in flat.items()}
        norms = {name: gradient.norm() for name, gradient in gradients.items()}
        pl_module.log_dict({f"grad_norm/{name}": norm for name, norm in norms.items()})
        tiny = torch.finfo(torch.float32).tiny  # 0 / tiny = 0 for a term without any gradient
        units = {name: gradient / norms[name].clamp_min(tiny) for name, gradient in gradients.items()}
        pl_module.log_dict({f"grad_cosine/{a}_{b}": units[a] @ units[b] for a, b in combinations(units, 2)})


def _gradient(term: Tensor, parameters: list[torch.nn.Parameter]) -> Tensor:
    # Unlike backward(), this leaves every .grad alone and triggers no exchange between ranks.
    gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
    return torch.cat([gradient.flatten().float() for gradient in gradients])
