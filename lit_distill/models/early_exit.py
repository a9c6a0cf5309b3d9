"""Inference that ends where an exit is sure."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from lit_distill.errors import InputError
from lit_distill.models.compute import macs
from lit_distill.models.multi_exit import MultiExit


class EarlyExit(nn.Module):
    r"""Answer each input with the first exit that is sure of it, and compute no further than that.

    An exit is sure of an input when the largest probability of any class, :math:`\max_c \mathrm{softmax}(z)_c`,
    reaches its threshold. The inputs that it is sure of leave the batch there; the rest of the network sees the others
    alone, and is not run when there are none. What this saves on average is known from where inputs leave:

    >>> from lit_distill.models import resnet8
    >>> student = MultiExit(resnet8(num_classes=10), {"early": "layer1", "middle": "layer2"}, input_shape=(3, 8, 8))
    >>> quick = EarlyExit(student.eval(), threshold=0.12)
    >>> logits, exit = quick.with_exits(torch.randn(100, 3, 8, 8))
    >>> expected = torch.tensor(quick.costs((3, 8, 8)))[exit].float().mean()

    In eval mode an answer does not depend on the inputs beside it, up to rounding. The exits must leave at modules
    that all later ones depend on alone: what a network keeps from before an exit (the connections of a U-Net) would
    still be there for the inputs that have left.

    Args:
        model: The network and its exits, trained.
        threshold: Smallest probability that is sure: one number for all exits, or one for each exit by name, where
            one that is not named is left out. At 0 every input leaves, above 1 none.

    Raises:
        InputError: A threshold is negative or names no exit; at a batch: the network answers inputs that have left.
    """

    def __init__(self, model: MultiExit, threshold: float | dict[str, float] = 0.9) -> None:
        super().__init__()
        given = threshold if isinstance(threshold, dict) else dict.fromkeys(model.paths, threshold)
        if unknown := sorted(given.keys() - model.paths.keys()):
            raise InputError(
                f"threshold: no exit is called {', '.join(unknown)}; the exits are {', '.join(model.paths)}"
            )
        if not all(value >= 0 for value in given.values()):
            raise InputError(f"threshold must be 0 or positive, not {threshold}")
        self.model = model
        self.thresholds = {name: given[name] for name in model.paths if name in given}

    def forward(self, x: Tensor) -> Tensor:
        """Inputs ``(B, ...)`` to logits ``(B, C)``."""
        return self.with_exits(x)[0]

    def with_exits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs ``(B, ...)`` to logits ``(B, C)`` and where each input left, ``(B,)``.

        The exits that have a threshold are numbered from 0, shallow to deep; the network's own answer comes after them.
        """
        run = _Run(torch.arange(len(x), device=x.device))
        hooks = []
        try:
            for name, threshold in self.thresholds.items():
                module = self.model.network.get_submodule(self.model.paths[name])
                hooks.append(module.register_forward_hook(_Leave(run, self.model.exits[name], threshold)))
            run.leave(self.model.network(x))
        except _AllLeft:
            pass
        finally:
            for hook in hooks:
                hook.remove()
            self.model.taps.pop()
        back = torch.cat(run.rows).argsort()  # from the order of leaving to that of the batch
        exits = torch.cat([torch.full_like(rows, number) for number, rows in enumerate(run.rows)])
        return torch.cat(run.logits)[back], exits[back]

    def costs(self, input_shape: tuple[int, ...]) -> list[int]:
        """Multiply-accumulate operations of one input that leaves at each exit with a threshold, or at the end.

        Args:
            input_shape: Shape of one input, without the batch axis.
        """
        names = list(self.thresholds)
        leave = [{n: 0.0 if n == last else math.inf for n in names[: i + 1]} for i, last in enumerate(names)]
        stay = dict.fromkeys(names, math.inf)
        return [macs(EarlyExit(self.model, threshold), input_shape) for threshold in (*leave, stay)]


class _AllLeft(Exception):
    """Ends a forward pass that no input needs any more."""


class _Run:
    """One pass of a batch: which rows are still there, and what was said of those that have left."""

    def __init__(self, rows: Tensor) -> None:
        self.left = rows
        self.rows: list[Tensor] = []
        self.logits: list[Tensor] = []

    def leave(self, logits: Tensor, sure: Tensor | None = None) -> Tensor:
        """Note the answers to the sure rows (default: to all that are there), and say which rows stay."""
        if len(logits) != len(self.left):
            raise InputError(
                f"exits: the network answers {len(logits)} inputs where {len(self.left)} are left; accepted are exits "
                "at modules that all later ones depend on alone"
            )
        sure = torch.ones_like(self.left, dtype=torch.bool) if sure is None else sure
        self.rows.append(self.left[sure])
        self.logits.append(logits[sure])
        self.left = self.left[~sure]
        return ~sure


class _Leave:
    """Forward hook where an exit stands: takes the inputs that it is sure of out of the batch."""

    def __init__(self, run: _Run, head: nn.Module, threshold: float) -> None:
        self.run, self.head, self.threshold = run, head, threshold

    def __call__(self, module: nn.Module, args: tuple[Any, ...], feature: Tensor) -> Tensor:
        logits = self.head(feature)
        # in half precision a probability of 0.999 would be 1
        stay = self.run.leave(logits, logits.softmax(-1, dtype=torch.float32).amax(-1) >= self.threshold)
        if not stay.any():
            raise _AllLeft
        return feature if stay.all() else feature[stay]
