"""Training a network on a distilled set: one plain loop."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lit_distill.data.mix import CutMix
from lit_distill.dataset.augment import SiameseAugmentation
from lit_distill.dataset.crops import cropped, random_box
from lit_distill.dataset.recipe import Recipe
from lit_distill.dataset.soft_views import StoredViews
from lit_distill.dataset.targets import centred, regression_error, soft_divergence
from lit_distill.errors import InputError

CUTMIX = CutMix()


def train(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    recipe: Recipe,
    generator: torch.Generator,
    num_classes: int,
    augment: SiameseAugmentation | None = None,
    flip: bool = True,
    teacher: nn.Module | None = None,
    lr: float | Sequence[float] | None = None,
    watch: Callable[[Tensor], None] | None = None,
    stored: StoredViews | None = None,
) -> nn.Module:
    """Train a network on few images, on the device that it is on; it is returned in eval mode.

    All random numbers come from ``generator``; the global ones are left as they are. Works where gradients are off and
    in inference mode too.

    Args:
        network: The network; its weights change.
        images: ``(N, C, H, W)``, normalised.
        targets: Classes, int64 ``(N,)``; probabilities ``(N, num_classes)``; or values to regress.
        recipe: How to train.
        generator: On the CPU.
        num_classes: The number of classes.
        augment: What a recipe with ``dsa`` does to every image. Default: the published strategy, without mirror images
            where ``flip`` is false.
        flip: Whether a mirror image is of the same class.
        teacher: A trained network whose answers about each batch, augmented and mixed, take the place of the targets.
        lr: The learning rate that was learned with the images, or one for each step, for recipes that use it.
        watch: Is given the loss of every step.
        stored: Crops and mixtures of the images, and what a teacher said about them, take the place of the recipe's
            and of the targets.

    Raises:
        InputError: When the loss is not finite, or the learned learning rate is missing or unusable.
    """
    device = next(network.parameters()).device
    count = len(images) // num_classes
    batch = recipe.images_a_step(count, num_classes)
    steps = math.ceil(len(images) / batch)
    rates = learning_rates(recipe, lr, steps)
    seed = int(torch.randint(1 << 62, (), generator=generator))
    with _fork(seed, device), torch.inference_mode(False), torch.enable_grad():
        x, y = images.detach().clone().to(device), targets.detach().clone().to(device)
        if recipe.regression and teacher is None:
            y = centred(y, num_classes)
        view = View(recipe, generator, num_classes, augment, flip)
        network.train()
        optimizer = _optimizer(network, recipe, rates[0])
        average = _Average(network, recipe.average) if recipe.average else None
        for step, rate in enumerate(rates):
            if step % steps == 0:
                if recipe.schedule == "drop" and step // steps == recipe.first_after_drop:
                    optimizer.state.clear()
                if recipe.schedule == "replay":  # the first image of every class, then the second of every class, ...
                    order = torch.arange(len(x)).view(num_classes, count).T.flatten()
                else:  # one batch of all is the same in any order
                    order = torch.arange(len(x)) if steps == 1 else torch.randperm(len(x), generator=generator)
            for group in optimizer.param_groups:
                group["lr"] = rate
            chosen = order[step % steps * batch : (step % steps + 1) * batch].to(device)
            if stored is None:
                loss = _loss(network, view(x[chosen], y[chosen]), recipe, teacher)
            else:
                loss = stored.loss(network, x, chosen, step // steps, recipe.temperature)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if average is not None:
                average.update()
            if watch is not None:
                watch(loss.detach())
        if not math.isfinite(value := loss.item()):
            raise InputError(f"recipe: its loss became {value} in training a network; lower lr (it was {rates[0]:g})")
        if average is not None:
            average.apply()
    return network.eval()


def learning_rates(recipe: Recipe, lr: float | Sequence[float] | None, steps: int) -> list[float]:
    """The learning rate of every step.

    Args:
        recipe: The recipe.
        lr: What was learned with the images, if anything was.
        steps: Batches of an epoch.

    Raises:
        InputError: When the recipe needs learned ones that are not there, or not all are positive numbers.
    """
    given = list(lr) if isinstance(lr, Sequence) else [lr] if lr is not None else []
    if recipe.learned_lr and (wrong := [size for size in given if not (math.isfinite(size) and size > 0)]):
        raise InputError(f"step_size: {wrong[0]} was learned with the images, and no network can be trained with it")
    if recipe.schedule == "replay":
        if not isinstance(lr, Sequence):
            raise InputError("recipe: it replays step sizes that were learned one a step, which this set does not have")
        return given
    if recipe.learned_lr and isinstance(lr, Sequence):
        raise InputError(f"recipe: the set has {len(lr)} step sizes, one a step, for which there is the recipe dd")
    first = given[0] if recipe.learned_lr and given else recipe.lr
    return [first * recipe.factor(step, steps) for step in range(recipe.passes * steps)]


class Seen(NamedTuple):
    """A batch as a network sees it.

    Attributes:
        x: Images ``(B, C, H, W)``.
        target: Of these images, or of their larger part.
        other: Of the rest of them, where they are mixed.
        own: The share of the larger part.
    """

    x: Tensor
    target: Tensor
    other: Tensor | None = None
    own: float = 1.0


class View:
    """What a network gets to see of a batch: augmented, and mixed.

    Args:
        recipe: What to do.
        generator: For all random numbers.
        num_classes: The number of classes.
        augment: For ``dsa``.
        flip: Whether images may be mirrored.
    """

    def __init__(
        self,
        recipe: Recipe,
        generator: torch.Generator,
        num_classes: int,
        augment: SiameseAugmentation | None,
        flip: bool,
    ) -> None:
        self.recipe, self.generator, self.num_classes, self.flip = recipe, generator, num_classes, flip
        self.augment = augment or SiameseAugmentation("_".join(n for n in ORDER if flip or n != "flip"))
        if recipe.cutmix and "cutout" in self.augment.strategy.split("_"):
            self.augment = without(self.augment, "cutout")
        self.rng = random.Random(int(torch.randint(1 << 62, (), generator=generator)))

    @torch.no_grad()
    def __call__(self, x: Tensor, y: Tensor) -> Seen:
        """What becomes of images ``(B, C, H, W)`` and their targets."""
        if self.recipe.augment == "dsa":
            x = self.augment.each(x, self.generator)
        elif self.recipe.augment == "crops":
            x = self._crops(x)
        if self.recipe.cutmix and torch.rand((), generator=self.generator) < self.recipe.cutmix:
            other = torch.randperm(len(x), generator=self.generator).to(x.device)
            x, own = CUTMIX.mix(x, x[other], self.rng)
            return Seen(x, y, y[other], own)
        return Seen(x, y)

    def _crops(self, x: Tensor) -> Tensor:
        size = x.shape[-2], x.shape[-1]
        if self.recipe.smallest_crop < 1:
            boxes = [random_box(size, self.generator, self.recipe.smallest_crop) for _ in x]
            x = torch.cat([cropped(image[None], box, size) for image, box in zip(x, boxes, strict=True)])
        if self.flip:
            mirrored = torch.rand(len(x), generator=self.generator) < 0.5
            x = torch.where(mirrored.to(x.device)[:, None, None, None], x.flip(-1), x)
        return x


ORDER = ("color", "crop", "cutout", "flip", "scale", "rotate")


def without(augment: SiameseAugmentation, operation: str) -> SiameseAugmentation:
    """The same augmentation with one operation less.

    Args:
        augment: The augmentation.
        operation: The name of an operation; if it is the only one, it stays.

    Example:
        >>> without(SiameseAugmentation("crop_cutout"), "cutout").strategy
        'crop'
    """
    names = [name for name in augment.strategy.split("_") if name != operation]
    kept = {name: value for name, value in vars(augment).items() if not name.startswith("_")}
    return SiameseAugmentation(**(kept | {"strategy": "_".join(names) or augment.strategy}))


def _loss(network: nn.Module, seen: Seen, recipe: Recipe, teacher: nn.Module | None) -> Tensor:
    given = network(seen.x)
    if teacher is not None:
        with torch.no_grad():
            wanted = teacher(seen.x)
        return soft_divergence(given, wanted, recipe.temperature)

    def score(target: Tensor) -> Tensor:
        return regression_error(given, target).mean() if recipe.regression else cross_entropy(given, target)

    if seen.other is None:
        return score(seen.target)
    return seen.own * score(seen.target) + (1 - seen.own) * score(seen.other)


def _optimizer(network: nn.Module, recipe: Recipe, lr: float) -> torch.optim.Optimizer:
    parameters = list(network.parameters())
    if recipe.optimizer == "adamw":
        decayed, others = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr, weight_decay=recipe.weight_decay)
    if recipe.optimizer == "adam":
        return torch.optim.Adam(parameters, lr, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(parameters, lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)


class _Average:
    """A moving average of weights that begins at nothing, and is divided by how much it has seen."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.weights = [p.detach() for p in network.parameters()]
        self.sums = [torch.zeros_like(p) for p in self.weights]
        self.decay, self.left = decay, 1.0

    def update(self) -> None:
        torch._foreach_lerp_(self.sums, self.weights, 1 - self.decay)
        self.left *= self.decay

    @torch.no_grad()
    def apply(self) -> None:
        for weight, total in zip(self.weights, self.sums, strict=True):
            weight.copy_(total / (1 - self.left))


@contextmanager
def _fork(seed: int, device: torch.device) -> Iterator[None]:
    """What draws from the global generators after all (dropout) gets numbers of its own."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
