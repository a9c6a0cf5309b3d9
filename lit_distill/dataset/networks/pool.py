"""Networks of all ages that learn from the synthetic set."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lit_distill.dataset.networks.base import NetworkSampler
from lit_distill.dataset.networks.fresh import fresh
from lit_distill.dataset.step import Purpose, Step, generator
from lit_distill.dataset.targets import centred, regression_error
from lit_distill.errors import InputError

# Words that tell what a generator of Purpose.NETWORK is for.
CHOICE, SUCCESSOR, FIRST, PROTOTYPES = range(4)


@dataclass
class Member:
    """A network, what trains it, and how many steps it was trained for."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    age: int


class Pool(NetworkSampler):
    r"""A few networks, each trained for a while on the synthetic set as it changes, then replaced by a new one.

    Paper: Zhou, Nezhadarya and Ba, Dataset Distillation using Neural Feature Regression, NeurIPS 2022,
    https://arxiv.org/abs/2206.00719

    Each step draws one at random. When the synthetic set has moved, that network is trained for one step of Adam on it

    .. math:: \frac{1}{m} \sum_j \tfrac12 \lVert f(s_j) - Y_j \rVert^2

    with labels less 1 / C where they are classes, or is replaced when it is older than ``updates``. The ages of the
    first networks are spread evenly, so that there are young and old ones at any time. Every process trains the same
    networks.

    Args:
        network: Builds the network. In YAML its class, e.g. ``{class_path: CondensationConvNet}`` with its arguments.
        size: How many there are.
        updates: Steps after which a network is replaced.
        lr: Learning rate of Adam.
        batch_size: Synthetic images a step, all of them where there are fewer.

    Raises:
        InputError: When ``size``, ``updates`` or ``batch_size`` is below 1 or ``lr`` not positive.

    Code: ``yongchaoz/FRePo:lib/datadistillation/frepo.py`` (proto_train_and_evaluate)
    """

    def __init__(
        self,
        network: Callable[[], nn.Module],
        size: int = 10,
        updates: int = 100,
        lr: float = 3e-4,
        batch_size: int = 500,
    ) -> None:
        super().__init__()
        for name, value in (("size", size), ("updates", updates), ("batch_size", batch_size)):
            if value < 1:
                raise InputError(f"{name} must be at least 1, not {value}")
        if not lr > 0:
            raise InputError(f"lr must be positive, not {lr}")
        self.network = network
        self.size = size
        self.updates = updates
        self.lr = lr
        self.batch_size = batch_size
        self.members: list[Member] = []
        self._saved: list[dict[str, Any]] = []
        self._chosen = 0

    def draw(self, step: Step) -> nn.Module:
        """One of the networks, whose parameters require no gradient."""
        if not self.members:
            self._fill(step)
        self._chosen = int(torch.randint(self.size, (), generator=step.generator(Purpose.NETWORK, CHOICE)))
        return self.members[self._chosen].network.requires_grad_(False)

    def advance(self, step: Step) -> None:
        """Train the network that was drawn for one step, or replace it."""
        member = self.members[self._chosen]
        if member.age > self.updates:
            successor = fresh(self.network, step.generator(Purpose.NETWORK, SUCCESSOR))
            self.members[self._chosen] = self._member(successor, step.device, 0)
            return
        images, targets = self._prototypes(step)
        member.network.train().requires_grad_(True)
        member.optimizer.zero_grad()
        regression_error(member.network(images), targets).mean().backward()
        member.optimizer.step()
        member.age += 1

    def get_extra_state(self) -> dict[str, Any]:
        """Networks, their optimizers and ages, for a run that is resumed."""
        members = [
            {"network": m.network.state_dict(), "optimizer": m.optimizer.state_dict(), "age": m.age}
            for m in self.members
        ]
        return {"members": members or self._saved}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Remember them until the next step, which knows the device.

        Args:
            state: What :meth:`get_extra_state` gave.
        """
        self.members, self._saved = [], state["members"]

    @torch.no_grad()
    def _prototypes(self, step: Step) -> tuple[Tensor, Tensor]:
        synthetic = step.synthetic.whole()
        images = synthetic.images.flatten(0, 1)
        targets = centred(synthetic.targets, step.synthetic.num_classes).flatten(0, 1)
        if len(images) > self.batch_size:
            order = torch.randperm(len(images), generator=step.generator(Purpose.NETWORK, PROTOTYPES))
            chosen = order[: self.batch_size].to(images.device)
            images, targets = images[chosen], targets[chosen]
        if step.augment is not None:
            images = step.augment.each(images, step.generator(Purpose.TRAINING))
        return images, targets

    def _fill(self, step: Step) -> None:
        if self._saved and len(self._saved) != self.size:
            raise InputError(f"size must be {len(self._saved)} as in the run that is resumed, not {self.size}")
        for i in range(self.size):
            network = fresh(self.network, generator(step.seed, Purpose.NETWORK, 0, FIRST, i))
            age = i * (self.updates // self.size)
            if self._saved:
                network.load_state_dict(self._saved[i]["network"])
                age = self._saved[i]["age"]
            member = self._member(network, step.device, age)
            if self._saved:
                member.optimizer.load_state_dict(self._saved[i]["optimizer"])
            self.members.append(member)
        self._saved = []

    def _member(self, network: nn.Module, device: torch.device, age: int) -> Member:
        network = network.to(device)
        return Member(network, torch.optim.Adam(network.parameters(), lr=self.lr), age)
