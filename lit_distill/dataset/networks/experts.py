"""Pieces of the trajectories of trained networks."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lit_distill.data.class_batches import ClassBatches
from lit_distill.dataset.experts import ExpertTraining, Snapshots, expert_file, make_experts
from lit_distill.dataset.networks.base import NetworkSampler
from lit_distill.dataset.networks.fresh import fresh
from lit_distill.dataset.step import Purpose, Step, generator
from lit_distill.dataset.unroll import Stateless
from lit_distill.errors import InputError


class Trajectory(NamedTuple):
    """A piece of an expert's trajectory.

    Attributes:
        network: The network, as a function of its weights.
        weights: After each epoch of the piece, from start to target, ``(length + 1, P)``.
        epoch: Of the start.
        last_epoch: No start is as late as this.
        number: Which of the step's pieces it is, over all processes.
        share: What its loss counts in the step.
    """

    network: Stateless
    weights: Tensor
    epoch: int
    last_epoch: int
    number: int
    share: float

    @property
    def start(self) -> Tensor:
        """Where the student begins, ``(P,)``."""
        return self.weights[0]

    @property
    def target(self) -> Tensor:
        """Where it is to arrive, ``(P,)``."""
        return self.weights[-1]


def latest_start(number: int, last: int, first_last: int, growth: int) -> int:
    """The epoch that no start may reach: it grows evenly from one to the other over some steps.

    Args:
        number: Of the step.
        last: After that many steps.
        first_last: In the first step.
        growth: How many steps.

    Example:
        >>> [latest_start(number, 20, 10, 1000) for number in (0, 500, 1000, 2000)]
        [10, 15, 20, 20]
    """
    return min(first_last + int((last - first_last) * number / growth), last)


class Experts(NetworkSampler):
    """Pieces of the trajectories of experts: networks trained on the real images.

    Experts are files in a folder, one each. Those that are missing are trained when the run begins, as ``training``
    says; ``lit-distill experts --config PRESET`` does it ahead, in as many processes as one likes. They have a seed of
    their own, so that several sets can be distilled from the same ones.

    Each step draws experts at random, and from each a piece that starts at any epoch from ``min_start`` on and before
    ``max_start``. Processes share the experts of a step: with two of them and ``per_step: 2`` each has one.

    Args:
        network: Builds the network. In YAML its class, e.g. ``{class_path: CondensationConvNet}`` with its arguments.
        folder: Where the experts are.
        training: How those that are missing are trained. Default: they are not.
        count: How many experts there are.
        length: Epochs of a piece.
        min_start: First epoch at which a piece may start; 0 is before any training.
        max_start: Epoch before which it starts. Default: the last that leaves room for a piece.
        first_max_start: What ``max_start`` is in the first step, for pieces that become more difficult (DATM).
            Default: the same.
        growth: Steps in which it grows to ``max_start``.
        per_step: Experts of a step, all processes taken together; the loss is their mean.

    Raises:
        InputError: When a number is outside its range, or experts are missing, of another network or too short.
    """

    def __init__(
        self,
        network: Callable[[], nn.Module],
        folder: str,
        training: ExpertTraining | None = None,
        count: int = 100,
        length: int = 3,
        min_start: int = 0,
        max_start: int | None = None,
        first_max_start: int | None = None,
        growth: int = 1000,
        per_step: int = 1,
    ) -> None:
        super().__init__()
        for name, value in (("count", count), ("length", length), ("growth", growth), ("per_step", per_step)):
            if value < 1:
                raise InputError(f"{name} must be at least 1, not {value}")
        ends = [min_start, *(end for end in (first_max_start, max_start) if end is not None)]
        if min_start < 0 or ends != sorted(ends) or min_start in ends[1:]:
            raise InputError(
                "min_start, first_max_start and max_start must not be negative and grow, not "
                f"{', '.join(map(str, ends))}"
            )
        self.network = network
        self.folder = folder
        self.way = training  # nn.Module has a `training` of its own
        self.count = count
        self.length = length
        self.min_start = min_start
        self.max_start = max_start
        self.first_max_start = first_max_start
        self.growth = growth
        self.per_step = per_step
        self.experts: list[Snapshots] = []
        self._network: Stateless | None = None

    def start(self, data: ClassBatches, device: torch.device) -> None:
        """Open the experts; train those that are missing.

        Raises:
            InputError: When experts are missing and nobody says how to train them, or do not fit.
        """
        network = Stateless(fresh(self.network, generator(0, Purpose.NETWORK)).to(device))
        if self.way is None:
            self.experts = [Snapshots(expert_file(self.folder, i)) for i in range(self.count)]
            for expert in self.experts:
                expert.check(network, expert.card["settings"])
        else:
            self.experts = make_experts(self.folder, self.count, self.network, self.way, data, device)
        shortest = min(expert.epochs for expert in self.experts)
        if not self.min_start < self.last_start <= shortest - self.length + 1:
            raise InputError(
                f"min_start, max_start and length must leave pieces within the {shortest} epochs of the experts in "
                f"{self.folder}, not {self.min_start}, {self.last_start} and {self.length}"
            )
        self._network = network

    @property
    def stateless(self) -> Stateless:
        """The network of all experts, as a function of its weights."""
        assert self._network is not None, "start comes first"
        return self._network

    @property
    def last_start(self) -> int:
        """The epoch before which pieces start."""
        if self.max_start is not None or not self.experts:
            return self.max_start or 0
        return min(expert.epochs for expert in self.experts) - self.length + 1

    def draw(self, step: Step) -> list[Trajectory]:
        """This process's pieces for a step.

        Raises:
            InputError: When there are fewer pieces than processes, or nothing happens within one.
        """
        distributed = torch.distributed.is_initialized()
        ranks = torch.distributed.get_world_size() if distributed else 1
        rank = torch.distributed.get_rank() if distributed else 0
        if self.per_step % ranks:
            raise InputError(f"per_step must be a multiple of the number of processes, {ranks}, not {self.per_step}")
        last = self.last_start
        if self.first_max_start is not None:
            last = latest_start(step.number, last, self.first_max_start, self.growth)
        drawn = []
        for i in range(rank, self.per_step, ranks):
            random = step.generator(Purpose.EXPERT, i)
            expert = self.experts[int(torch.randint(self.count, (), generator=random))]
            epoch = int(torch.randint(self.min_start, last, (), generator=random))
            weights = expert[epoch : epoch + self.length + 1].to(step.device)
            if torch.equal(weights[0], weights[-1]):
                raise InputError(
                    f"folder: {expert.file} has the same weights after epochs {epoch} and {epoch + self.length}, so "
                    "there is nothing to match; delete it"
                )
            drawn.append(Trajectory(self.stateless, weights, epoch, self.last_start, i, 1 / self.per_step))
        return drawn

    def at(self, epoch: int) -> list[Tensor]:
        """The weights of every expert after an epoch, each ``(P,)``, on the CPU.

        Args:
            epoch: Which; negative ones count from the end.

        Raises:
            InputError: When there is no such epoch.
        """
        shortest = min(expert.epochs for expert in self.experts)
        if not -shortest <= epoch + 1 <= shortest + 1:
            raise InputError(f"epoch: {epoch} is none of the experts in {self.folder}, which have {shortest}")
        places = [epoch if epoch >= 0 else expert.epochs + 1 + epoch for expert in self.experts]
        return [expert[place : place + 1][0] for expert, place in zip(self.experts, places, strict=True)]
