"""Networks that are trained between the steps that they are used in (DC, IDC)."""

import random
from abc import abstractmethod
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lit_distill.data.mix import CutMix, Mix
from lit_distill.dataset.all_classes import real_of_all
from lit_distill.dataset.networks.base import NetworkSampler
from lit_distill.dataset.networks.fresh import fresh
from lit_distill.dataset.step import Purpose, Step
from lit_distill.dataset.training import without
from lit_distill.errors import InputError


class Trained(NetworkSampler):
    """One network for several steps, trained between them with SGD; then a new one.

    A subclass says what it is trained on.

    Args:
        network: Builds the network. In YAML its class, e.g. ``{class_path: CondensationConvNet}`` with its arguments.
        steps: Steps that a network is used in. It is not trained after the last of them.
        epochs: Times that it sees its training images between two steps.
        lr: Learning rate.
        momentum: Of SGD.
        weight_decay: Of SGD.
        batch_size: Images a step of SGD, all of them where there are fewer.

    Raises:
        InputError: When ``steps`` or ``batch_size`` is below 1, ``epochs`` is negative or ``lr`` not positive.
    """

    def __init__(
        self,
        network: Callable[[], nn.Module],
        steps: int,
        epochs: int,
        lr: float,
        momentum: float,
        weight_decay: float,
        batch_size: int,
    ) -> None:
        super().__init__()
        for name, value, least in (("steps", steps, 1), ("epochs", epochs, 0), ("batch_size", batch_size, 1)):
            if value < least:
                raise InputError(f"{name} must be at least {least}, not {value}")
        if not lr > 0:
            raise InputError(f"lr must be positive, not {lr}")
        self.network = network
        self.steps = steps
        self.epochs = epochs
        self.sgd = partial(torch.optim.SGD, lr=lr, momentum=momentum, weight_decay=weight_decay)
        self.batch_size = batch_size
        # a tuple, as the network must be no submodule
        self._current: tuple[nn.Module, torch.optim.Optimizer] | None = None
        self._used = 0
        self._saved: dict[str, Any] | None = None

    @abstractmethod
    def batches(self, step: Step, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and targets, classes or probabilities, of one epoch between two steps.

        Args:
            step: The step that was made.
            generator: For all that is random.
        """

    def draw(self, step: Step) -> nn.Module:
        """The current network, whose parameters require no gradient; a new one when the last has done its steps."""
        if self._current is None:
            network = fresh(self.network, step.generator(Purpose.NETWORK)).to(step.device)
            self._current = network, self.sgd(network.parameters())
            if self._saved is not None:
                network.load_state_dict(self._saved["network"])
                self._current[1].load_state_dict(self._saved["optimizer"])
                self._saved = None
        return self._current[0].requires_grad_(False)

    def advance(self, step: Step) -> None:
        """Train the network for the next step, or drop it after its last."""
        assert self._current is not None
        self._used += 1
        if self._used >= self.steps:
            self._current, self._used = None, 0
            return
        network, optimizer = self._current
        network.train().requires_grad_(True)
        generator = step.generator(Purpose.TRAINING)
        for _ in range(self.epochs):
            for x, target in self.batches(step, generator):
                optimizer.zero_grad()
                cross_entropy(network(x), target).backward()
                optimizer.step()
        optimizer.zero_grad()

    def get_extra_state(self) -> dict[str, Any]:
        """The network, its optimizer and the number of steps it was used in, for a run that is resumed."""
        if self._current is None:
            return {"used": self._used, "current": self._saved}
        network, optimizer = self._current
        return {
            "used": self._used,
            "current": {"network": network.state_dict(), "optimizer": optimizer.state_dict()},
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Remember them until the next step, which knows the device.

        Args:
            state: What :meth:`get_extra_state` gave.
        """
        # copied, as an optimizer goes on with the very tensors that it is given
        self._used, self._saved, self._current = state["used"], deepcopy(state["current"]), None

    def shuffled(self, images: Tensor, targets: Tensor, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """All images once, in batches.

        Args:
            images: ``(N, C, H, W)``.
            targets: ``(N, ...)``.
            generator: Of the order.
        """
        for chosen in torch.randperm(len(images), generator=generator).to(images.device).split(self.batch_size):
            yield images[chosen], targets[chosen]


class TrainedOnSynthetic(Trained):
    """Networks that follow the synthetic set: used for some steps, and trained on the set as it is between them.

    Paper: Zhao, Mopuri and Bilen, Dataset Condensation with Gradient Matching (DC), ICLR 2021,
    https://arxiv.org/abs/2006.05929, algorithm 1. Its loops by images per class:

    ================  =========  ==========
    images per class  ``steps``  ``epochs``
    ================  =========  ==========
    1                 1          1
    10                10         50
    50                50         10
    ================  =========  ==========

    so that with one image a class no network is ever trained. The authors count an iteration a network: 1000 are
    ``--trainer.max_steps`` 1000, 10,000 and 50,000. Every process trains the same network.

    The augmentation of the run is applied, to each image in its own way.

    Args:
        steps: Steps that a network is used in (``outer_loop``). It is not trained after the last of them.
        epochs: Times that it sees the synthetic set between two steps (``inner_loop``).

    Code: ``VICO-UoE/DatasetCondensation:main.py``, ``utils.py`` (get_loops)
    """

    def __init__(
        self,
        network: Callable[[], nn.Module],
        steps: int = 10,
        epochs: int = 50,
        lr: float = 0.01,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        batch_size: int = 256,
    ) -> None:
        super().__init__(network, steps, epochs, lr, momentum, weight_decay, batch_size)

    def batches(self, step: Step, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """The synthetic set."""
        with torch.no_grad():
            images, targets = (part.flatten(0, 1) for part in step.synthetic.whole())
        for x, target in self.shuffled(images, targets, generator):
            yield (x if step.augment is None else step.augment.each(x, generator)), target


class TrainedOnReal(Trained):
    """Networks that learn the task: used for some steps, and trained on real images between them.

    Paper: Kim et al., Dataset Condensation via Efficient Synthetic-Data Parameterization (IDC), ICML 2022,
    https://arxiv.org/abs/2205.14959, section 4.2 and algorithm 1

    The real images are those of the step; the authors draw others. Every process trains the same network on the images
    of all. The augmentation of the run is applied, to each image in its own way, but without ``cutout`` when they are
    mixed by ``CutMix``, as the authors do.

    Args:
        steps: Steps that a network is used in (``inner_loop``). It is not trained after the last of them.
        epochs: Times that it sees its images between two steps (``net_epoch``).
        images: Real images of a step that it is trained on (``n_data``), all of them where there are fewer.
        mix: Mixes pairs of them. The authors take ``CutMix``. Default: none.

    Raises:
        InputError: When ``images`` is below 1.

    Code: ``snu-mllab/Efficient-Dataset-Condensation:condense.py``, ``train.py`` (train_epoch)
    """

    def __init__(
        self,
        network: Callable[[], nn.Module],
        steps: int = 100,
        epochs: int = 1,
        images: int = 500,
        mix: Mix | None = None,
        lr: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        batch_size: int = 64,
    ) -> None:
        super().__init__(network, steps, epochs, lr, momentum, weight_decay, batch_size)
        if images < 1:
            raise InputError(f"images must be at least 1, not {images}")
        self.images = images
        self.mix = mix

    def batches(self, step: Step, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Some of the step's real images."""
        images, targets = (part.flatten(0, 1) for part in real_of_all(step))
        chosen = torch.randperm(len(images), generator=generator)[: self.images].to(images.device)
        augment = step.augment
        if augment is not None and isinstance(self.mix, CutMix):
            augment = without(augment, "cutout")
        rng = random.Random(int(torch.randint(1 << 62, (), generator=generator)))
        for x, target in self.shuffled(images[chosen], targets[chosen], generator):
            seen = x if augment is None else augment.each(x, generator)
            yield (seen, target) if self.mix is None else self.mix(seen, target, step.synthetic.num_classes, rng)
