"""What a distilled set is worth: fresh networks are trained on it, and beside it on as many real images."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lit_distill.data.base import ImageData
from lit_distill.data.class_batches import ClassBatches
from lit_distill.data.parts import RawBatch
from lit_distill.dataset.artifact import DistilledDataset
from lit_distill.dataset.augment import SiameseAugmentation
from lit_distill.dataset.recipe import Recipe
from lit_distill.dataset.soft_views import StoredViews
from lit_distill.dataset.step import Purpose, generator
from lit_distill.dataset.synthetic.selected import Selected
from lit_distill.dataset.training import train
from lit_distill.dataset.whitening import Whitening
from lit_distill.errors import InputError
from lit_distill.models.random_weights import seeded

# Images that are tested at once: few fit the cache of a CPU, many fill a GPU.
BATCH, LARGE_BATCH = 128, 1024

#: Which real images networks are tested on: those held out from the training set, or the test set.
Split = Literal["val", "test"]


@dataclass(frozen=True)
class Judge:
    """Trains networks on small sets and tests them on real images; all it draws depends on ``seed`` alone.

    The same networks, with the same random numbers, are trained on every set, so that differences between sets are
    not differences between networks.

    Attributes:
        data: The real images.
        recipe: How networks are trained.
        split: What they are tested on.
        seed: Of networks and training.
        device: Where.
        whitening: What the sets were made white by, and real images will be.
    """

    data: ImageData
    recipe: Recipe
    split: Split = "test"
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    whitening: Whitening | None = None

    def trial(
        self,
        model: Callable[[], nn.Module],
        number: int,
        images: Tensor,
        targets: Tensor,
        augment: SiameseAugmentation | None = None,
        teacher: nn.Module | None = None,
        lr: float | Sequence[float] | None = None,
        regression: bool = False,
        stored: StoredViews | None = None,
    ) -> float:
        """The accuracy of one network, in [0, 1].

        Args:
            model: Builds the network.
            number: Which of the networks of this kind.
            images: ``(N, C, H, W)``, as networks see them.
            targets: As :func:`train` takes them.
            augment: For recipes with DSA.
            teacher: Whose answers take the place of the targets.
            lr: The learning rate that was learned with the images, or one for each step.
            regression: Whether the targets are values to regress, whatever the recipe says.
            stored: Labels on disk, which take the place of the targets.
        """
        with torch.inference_mode(False):
            first = generator(self.seed, Purpose.EVALUATION, number)
            network = seeded(model, int(torch.randint(1 << 62, (), generator=first))).to(self.device)
            recipe = replace(self.recipe, regression=True) if regression else self.recipe
            flip = getattr(self.data, "flip", True)
            classes = self.data.num_classes
            train(network, images, targets, recipe, first, classes, augment, flip, teacher, lr, stored=stored)
            return self.accuracy(network)

    def accuracy(self, network: nn.Module) -> float:
        """Share of the real images that a network classifies right.

        Args:
            network: In eval mode.
        """
        right = total = 0
        with torch.inference_mode():
            for x, y in self.real():
                right += int((network(x).argmax(-1) == y).sum())
                total += len(y)
        return right / total

    def real(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The images to test on and their classes, batch by batch."""
        part = self.data.parts[self.split]
        for positions in part.positions.split(BATCH if self.device.type == "cpu" else LARGE_BATCH):
            targets = part.images.targets[positions]
            raw = RawBatch(
                part.images.take(positions, 0, False).to(self.device), targets, None, epoch=0, number=0, training=False
            )
            x = self.data.prepared(raw)
            yield x if self.whitening is None else self.whitening(x), targets.to(self.device)


def evaluate(
    sets: Sequence[DistilledDataset],
    data: ImageData,
    recipe: Recipe,
    models: Mapping[str, Callable[[], nn.Module]],
    networks: int = 5,
    split: Split = "test",
    seed: int = 0,
    teacher: nn.Module | None = None,
    device: torch.device | str = "cpu",
    advance: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    """Compare distilled sets with random real images and with herding, of the same budget and under the same recipe.

    Every set is tried with hard labels; a distilled one that has soft labels also with those; and all with the
    teacher's answers where there is a teacher. A distilled set that was relabelled is also tried with these labels, of
    the crops and mixtures that were stored. Herding compares what the teacher's classifier sees, or else pixels.
    Random images are others for every network. A learned step size is for the distilled
    images alone, unless the recipe is nothing but learned step sizes.

    Args:
        sets: Distilled sets; several are of the same method and differ in the seed of the distillation.
        data: The real images, as they were distilled.
        recipe: How networks are trained.
        models: Build fresh networks, by name.
        networks: How many of each.
        split: What to test on; selection is done on ``val``.
        seed: Of networks and training.
        teacher: A network trained on the real images.
        device: Where.
        advance: Is told of each trial when it begins.

    Returns:
        For each ``model``, ``set`` (``distilled``, ``random``, ``herding``) and ``labels`` (``hard``, ``own``,
        ``stored``, ``teacher``): the ``accuracies``, a list for each set; their ``mean``; the standard deviation over
        networks within a set, ``std_networks``, and over sets, ``std_sets`` (None where there is one); and ``seconds``
        a network.

    Raises:
        InputError: When the sets differ in their budget, or do not fit the data.
    """
    if networks < 1:
        raise InputError(f"networks must be at least 1, not {networks}")
    first = sets[0]
    for other in sets:
        fits(other, first, data)
    source = ClassBatches(data)
    source.setup("fit")
    data.setup("test" if split == "test" else "fit")
    judge = Judge(data, recipe, split, seed, torch.device(device), first.transform.whitening)
    teacher = None if teacher is None else teacher.to(judge.device).eval().requires_grad_(False)
    real = Controls(source, first, seed, teacher)
    rows = []
    for model, build in models.items():
        for name, labels in trials(first, teacher):
            started, groups = time.perf_counter(), []
            for which in range(len(sets) if name == "distilled" else 1):
                group = []
                for number in range(networks):
                    if advance is not None:
                        advance(f"{model}, {name}, {labels} labels")
                    own = sets[which]
                    images, targets = (own.images, own.targets) if name == "distilled" else real.of(name, number)
                    if targets.is_floating_point() and labels != "own":
                        targets = targets.argmax(-1)
                    group.append(
                        judge.trial(
                            build,
                            number,
                            images,
                            targets,
                            own.augment,
                            teacher if labels == "teacher" else None,
                            own.card["step_size"] if name == "distilled" or recipe.schedule == "replay" else None,
                            regression=labels == "own" and own.card["labels"] == "values",
                            stored=own.stored if labels == "stored" else None,
                        )
                    )
                groups.append(group)
            seconds = (time.perf_counter() - started) / sum(map(len, groups))
            rows.append({"model": model, "set": name, "labels": labels, **summary(groups), "seconds": seconds})
    return rows


def trials(distilled: DistilledDataset, teacher: nn.Module | None) -> list[tuple[str, str]]:
    """Which sets are tried with which labels.

    Args:
        distilled: One of the distilled sets.
        teacher: A teacher, if there is one.
    """
    own = ["own"] if distilled.targets.is_floating_point() else []
    own += [] if distilled.stored is None else ["stored"]
    taught = [] if teacher is None else ["teacher"]
    controls = [(name, labels) for name in ("random", "herding") for labels in ("hard", *taught)]
    return [("distilled", labels) for labels in ("hard", *own, *taught)] + controls


class Controls:
    """As many real images as a distilled set has.

    Args:
        source: The real images by class.
        like: The distilled set.
        seed: Of random images.
        teacher: Compares images for herding; default: their pixels.
    """

    def __init__(
        self, source: ClassBatches, like: DistilledDataset, seed: int, teacher: nn.Module | None = None
    ) -> None:
        self.source, self.seed, self.white = source, seed, like.transform.whitening
        self.count = int(like.card["images_per_class"])
        self.teacher = teacher
        self._herding: tuple[Tensor, Tensor] | None = None

    def of(self, name: str, number: int) -> tuple[Tensor, Tensor]:
        """Images ``(N, C, H, W)`` and their classes.

        Args:
            name: ``random`` or ``herding``.
            number: Which of the random ones.
        """
        if name == "random":
            return self._chosen(Selected(self.count, "random"), number)
        if self._herding is None:
            self._herding = self._chosen(Selected(self.count, "herding", self.teacher), 0)
        return self._herding

    def _chosen(self, chooser: Selected, number: int) -> tuple[Tensor, Tensor]:
        chooser.build(self.source.num_classes, self.source.input_shape)
        chooser.start(self.source, generator(self.seed, Purpose.EVALUATION, number, 1))
        images, targets = chooser.whole()
        images = images if self.white is None else self.white(images)
        return images.flatten(0, 1), targets.flatten()


def fits(distilled: DistilledDataset, first: DistilledDataset, data: ImageData) -> None:
    """Refuse to compare what cannot be compared.

    Args:
        distilled: A distilled set.
        first: The one that it is to have the budget of.
        data: The real images.

    Raises:
        InputError: Naming what differs.
    """
    for name in ("num_classes", "images_per_class", "input_shape", "labels"):
        if distilled.card[name] != first.card[name]:
            raise InputError(
                f"folder: sets must be alike to be compared, but have {name} {first.card[name]} and "
                f"{distilled.card[name]}"
            )
    if (distilled.stored is None) != (first.stored is None):
        raise InputError("folder: sets must be alike to be compared, but only some are relabelled")
    real = {"num_classes": data.num_classes, "input_shape": list(data.input_shape)}
    if wrong := [name for name, value in real.items() if distilled.card[name] != value]:
        name = wrong[0]
        raise InputError(f"data: {type(data).__name__} has {name} {real[name]}, the set {distilled.card[name]}")
    given = distilled.card["normalisation"]
    if not all(
        math.isclose(a, b, rel_tol=1e-6)
        for ours, theirs in ((data.mean, given["mean"]), (data.std, given["std"]))
        for a, b in zip(ours, theirs, strict=True)
    ):
        raise InputError(
            f"data: {type(data).__name__} is normalised by mean {data.mean} and std {data.std}, and the set by "
            f"{tuple(given['mean'])} and {tuple(given['std'])}"
        )


def summary(groups: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Mean and standard deviations, over networks and over sets apart.

    Args:
        groups: Accuracies of the networks of each set.

    Example:
        >>> summary([[0.7, 0.8], [0.5, 0.6]])["mean"]
        0.65
    """
    means = [fmean(group) for group in groups]
    within = [stdev(group) ** 2 for group in groups if len(group) > 1]
    return {
        "accuracies": [list(group) for group in groups],
        "mean": fmean(means),
        "std_networks": math.sqrt(fmean(within)) if within else None,
        "std_sets": stdev(means) if len(means) > 1 else None,
    }
