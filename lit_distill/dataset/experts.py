"""Trajectories of experts: the weights of networks that were trained on real images, after every epoch."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import Progress
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lit_distill.data.class_batches import ClassBatches
from lit_distill.dataset.augment import SiameseAugmentation
from lit_distill.dataset.networks.fresh import fresh
from lit_distill.dataset.step import Purpose, generator
from lit_distill.dataset.unroll import Stateless
from lit_distill.errors import InputError
from lit_distill.student_file import write_whole

# Grows when a reader of older files would misunderstand a newer one.
FORMAT = 1

# Words that tell what a generator of Purpose.EXPERT is for.
WEIGHTS, ORDER, AUGMENT = range(3)


class Batch(NamedTuple):
    """A batch of real images.

    Attributes:
        x: As they are, ``(B, C, H, W)``.
        augmented: Likewise, augmented.
        y: Classes, int64 ``(B,)``.
    """

    x: Tensor
    augmented: Tensor
    y: Tensor


class ExpertTraining:
    """How experts are trained: SGD on cross entropy, as in trajectory matching (MTT).

    Cazenavette et al., Dataset Distillation by Matching Training Trajectories, CVPR 2022,
    https://arxiv.org/abs/2203.11932: 100 experts, 50 epochs, no momentum. Another way to train overrides
    :meth:`gradient`.

    Args:
        epochs: How many epochs; weights are kept before the first and after each.
        lr: Learning rate.
        momentum: Of SGD.
        weight_decay: Of SGD.
        batch_size: Images a step.
        decay: What the learning rate is multiplied with once, after half of the epochs and one more; momentum begins
            anew then, as in the code of the authors.
        augment: What images go through, each by itself. Default: none.
        seed: Of weights, order and augmentation.

    Raises:
        InputError: When a number is outside its range.

    Code: ``GeorgeCazenavette/mtt-distillation:buffer.py``. Its snapshots share memory on the CPU: all of them are the
    last one there.
    """

    def __init__(
        self,
        epochs: int = 50,
        lr: float = 0.01,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        batch_size: int = 256,
        decay: float = 1.0,
        augment: SiameseAugmentation | None = None,
        seed: int = 0,
    ) -> None:
        for name, count in (("epochs", epochs), ("batch_size", batch_size)):
            if count < 1:
                raise InputError(f"{name} must be at least 1, not {count}")
        if not 0 < lr < math.inf:
            raise InputError(f"lr must be positive, not {lr}")
        if not (0 <= momentum < 1 and 0 <= weight_decay < math.inf and 0 < decay < math.inf):
            raise InputError(
                f"momentum must be in [0, 1), weight_decay not negative and decay positive, not {momentum}, "
                f"{weight_decay} and {decay}"
            )
        self.epochs = epochs
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.decay = decay
        self.augment = augment
        self.seed = seed

    def gradient(self, network: Stateless, weights: Tensor, batch: Batch, epoch: int) -> tuple[Tensor, Tensor]:
        """What a step follows, ``(P,)``, and the loss, a scalar.

        Args:
            network: The network.
            weights: Its weights, ``(P,)``, without a gradient.
            batch: Real images.
            epoch: From 0.
        """
        return slope(lambda at: cross_entropy(network(at, batch.augmented), batch.y), weights)

    def settings(self) -> dict[str, Any]:
        """What the experts depend on, in plain values."""
        plain = {name: value for name, value in vars(self).items() if name != "augment"}
        drawn = None if self.augment is None else {n: v for n, v in vars(self.augment).items() if n[0] != "_"}
        return {"training": type(self).__name__, **plain, "augment": drawn}


def slope(loss: Callable[[Tensor], Tensor], weights: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient and value of a loss, detached.

    Args:
        loss: Of the weights.
        weights: Where, ``(P,)``.
    """
    at = weights.detach().requires_grad_()
    with torch.enable_grad():
        value = loss(at)
    return torch.autograd.grad(value, at)[0], value.detach()


class Snapshots:
    """The weights of one expert after every epoch, read from its file where they are asked for.

    Args:
        file: The file.

    Raises:
        InputError: When it is missing, damaged or no trajectory.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            with safe_open(file, framework="pt") as opened:
                self.card = json.loads(opened.metadata()["trajectory"])
                self.epochs = opened.get_slice("snapshots").get_shape()[0] - 1
        except FileNotFoundError:
            raise InputError(f"folder: {file} is missing; `lit-distill experts --config PRESET` makes it") from None
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"folder: {file} is damaged, or no trajectory of an expert; delete it") from error
        if self.card["format"] > FORMAT:
            raise InputError(f"folder: {file} has format {self.card['format']}; accepted are up to {FORMAT}")

    def __getitem__(self, epochs: slice) -> Tensor:
        """Weights after some epochs, ``(..., P)``; the file is mapped into memory and not read as a whole."""
        with safe_open(self.file, framework="pt") as opened:
            return opened.get_slice("snapshots")[epochs].clone()

    def check(self, network: Stateless, settings: dict[str, Any]) -> None:
        """Refuse a trajectory of another network or another training.

        Args:
            network: The network.
            settings: What :meth:`ExpertTraining.settings` says, and more.

        Raises:
            InputError: Naming the difference.
        """
        own, other = self.card["weights"], {name: list(shape) for name, shape in network.shapes.items()}
        if own != other:
            names = [name for name in {**own, **other} if own.get(name) != other.get(name)]
            raise InputError(
                f"folder: {self.file} holds another network: {names[0]} is {own.get(names[0], 'not there')}, and "
                f"{other.get(names[0], 'not there')} in network; use another folder"
            )
        made = self.card["settings"]
        if differing := [name for name in {**made, **settings} if made.get(name) != settings.get(name)]:
            name = differing[0]
            raise InputError(
                f"folder: {self.file} was made with {name} {made.get(name)}, not {settings.get(name)}; use another "
                "folder, or delete this one"
            )


def expert_file(folder: str | Path, number: int) -> Path:
    """Where an expert's weights are.

    Args:
        folder: Of all experts.
        number: Which one, from 0.
    """
    return Path(folder).expanduser() / f"expert_{number:04d}.safetensors"


def save_snapshots(file: Path, snapshots: Tensor, network: Stateless, settings: dict[str, Any]) -> None:
    """Write a trajectory; the file appears whole or not at all.

    Args:
        file: Where.
        snapshots: ``(epochs + 1, P)``.
        network: The network.
        settings: What the trajectory depends on.
    """
    card = {"format": FORMAT, "settings": settings, "weights": {n: list(s) for n, s in network.shapes.items()}}
    about = {"trajectory": json.dumps(card)}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, lambda partial: save_file({"snapshots": snapshots.contiguous()}, partial, metadata=about))


def make_experts(
    folder: str | Path,
    count: int,
    network: Callable[[], nn.Module],
    training: ExpertTraining,
    data: ClassBatches,
    device: torch.device,
) -> list[Snapshots]:
    """The experts of a folder, of which those that are missing are trained first.

    Processes that ask for the same folder share the work. One that is interrupted keeps what it has after every epoch,
    and the next goes on from there; the result is the same, bit by bit.

    Args:
        folder: One file an expert.
        count: How many experts.
        network: Builds the network.
        training: How they are trained.
        data: The real images, which are held in memory.
        device: Where they are trained.

    Raises:
        InputError: When the folder holds experts of another network or training, or an expert diverges.
    """
    files = [expert_file(folder, i) for i in range(count)]
    settings = training.settings() | {"data": type(data.data).__name__}
    built = Stateless(fresh(network, generator(training.seed, Purpose.EXPERT, 0, WEIGHTS)))
    if any(not file.exists() for file in files):
        files[0].parent.mkdir(parents=True, exist_ok=True)
        real = [data.images_of(c) for c in range(data.num_classes)]
        y = torch.arange(data.num_classes).repeat_interleave(torch.tensor([len(x) for x in real])).to(device)
        x = torch.cat(real).to(device)
        for patience in (0, -1):  # what another process works on is waited for at the end
            for i, file in enumerate(files):
                try:
                    with FileLock(f"{file}.lock", timeout=patience):
                        if not file.exists():
                            _train(file, i, count, network, training, settings, x, y)
                except Timeout:
                    continue
    experts = [Snapshots(file) for file in files]
    for expert in experts:
        expert.check(built, settings)
    return experts


def _train(
    file: Path,
    number: int,
    count: int,
    network: Callable[[], nn.Module],
    training: ExpertTraining,
    settings: dict[str, Any],
    x: Tensor,
    y: Tensor,
) -> None:
    built = fresh(network, generator(training.seed, Purpose.EXPERT, number, WEIGHTS)).to(x.device)
    stateless = Stateless(built)
    # the names of unfinished files tell what they depend on: other settings begin anew
    partial = file.with_suffix(".partial")
    done = partial / "settings.json"
    text = json.dumps([settings, {name: list(shape) for name, shape in stateless.shapes.items()}])
    if partial.exists() and not (done.exists() and done.read_text(encoding="utf-8") == text):
        shutil.rmtree(partial)
    partial.mkdir(exist_ok=True)
    write_whole(done, lambda at: at.write_text(text, encoding="utf-8"))
    first = 0
    while (partial / f"{first + 1}.safetensors").exists():
        first += 1
    weights, velocity = stateless.flat(), torch.zeros_like(stateless.flat())
    if first:
        with safe_open(partial / f"{first}.safetensors", framework="pt") as opened:
            weights = opened.get_tensor("weights").to(x.device)
            velocity = opened.get_tensor("velocity").to(x.device)
    else:
        _keep(partial / "0.safetensors", weights, velocity)
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task(f"expert {number + 1} of {count}", total=training.epochs, completed=first)
        for epoch in range(first, training.epochs):
            if training.decay != 1 and epoch == training.epochs // 2 + 2:
                velocity.zero_()
            loss = _epoch(stateless, training, weights, velocity, x, y, number, epoch)
            if not math.isfinite(loss):
                raise InputError(f"lr: expert {number} has a loss of {loss} in epoch {epoch}; lower lr, {training.lr}")
            _keep(partial / f"{epoch + 1}.safetensors", weights, velocity)
            bar.update(task, advance=1, description=f"expert {number + 1} of {count}, loss {loss:.3f}")
    snapshots = torch.empty(training.epochs + 1, len(weights))
    for epoch in range(training.epochs + 1):
        with safe_open(partial / f"{epoch}.safetensors", framework="pt") as opened:
            snapshots[epoch] = opened.get_tensor("weights")
    save_snapshots(file, snapshots, stateless, settings)
    shutil.rmtree(partial)


def _epoch(
    network: Stateless,
    training: ExpertTraining,
    weights: Tensor,
    velocity: Tensor,
    x: Tensor,
    y: Tensor,
    number: int,
    epoch: int,
) -> float:
    """Train for an epoch, in place; the mean loss."""
    lr = training.lr * (training.decay if epoch > training.epochs // 2 + 1 else 1.0)
    order = torch.randperm(len(x), generator=generator(training.seed, Purpose.EXPERT, number, ORDER, epoch))
    total = torch.zeros((), device=x.device)
    for i, rows in enumerate(order.to(x.device).split(training.batch_size)):
        images = seen = x[rows]
        if training.augment is not None:
            words = (number, AUGMENT, epoch, i)
            seen = training.augment.each(images, generator(training.seed, Purpose.EXPERT, *words))
        gradient, loss = training.gradient(network, weights, Batch(images, seen, y[rows]), epoch)
        gradient = gradient.add(weights, alpha=training.weight_decay) if training.weight_decay else gradient
        velocity.mul_(training.momentum).add_(gradient)
        weights.add_(velocity, alpha=-lr)
        total += loss * len(rows)
    return float(total / len(x))


def _keep(file: Path, weights: Tensor, velocity: Tensor) -> None:
    # copies: both go on changing in place
    tensors = {"weights": weights.to("cpu", copy=True), "velocity": velocity.to("cpu", copy=True)}
    write_whole(file, lambda at: save_file(tensors, at))
