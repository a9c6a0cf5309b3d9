"""How networks are trained on a distilled set: the recipes by which publications judge theirs."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from lit_distill.errors import InputError

Optimizer = Literal["sgd", "adam", "adamw"]
Schedule = Literal["constant", "drop", "steps", "cosine", "half_cosine", "warm_cosine", "replay"]
Views = Literal["none", "dsa", "crops"]
WARM_UP = 500


@dataclass(frozen=True)
class Recipe:
    """How a network is trained on a small set.

    Targets that are classes or probabilities are learned with cross entropy; with a teacher, what it says about each
    batch with the divergence of both at ``temperature``, which is not multiplied by its square.

    Attributes:
        epochs: How often each image is seen.
        lr: Learning rate; one that was learned with the images takes its place where ``learned_lr``.
        learned_lr: Whether to use the step size in the artifact's card.
        optimizer: ``sgd``, ``adam``, or ``adamw`` with no decay of biases and norms.
        momentum: Of ``sgd``.
        weight_decay: Of all parameters, norms and biases too.
        batch_size: Images a step. ``None``: 10 where there is one image a class, 50 with up to 10 and 100 with more,
            and twice as many with 100 classes or more; with ``replay`` one of each class.
        schedule: Of the learning rate. ``drop``: a tenth, and momentum anew, after half of the epochs; one epoch is
            added. ``steps``: a fifth after 2/3 and again after 5/6 of the epochs. ``cosine``: to 0 over the epochs.
            ``half_cosine``: to half. ``warm_cosine``: up in 500 steps (at most half of all), then down to 1 %.
            ``replay``: the learned ones, one a step, and batches always in the order in which they were learned: the
            first image of every class, the second of every class, and so on. ``epochs`` does not count then.
        augment: ``dsa``: every image by itself as its artifact's card says. ``crops``: random crops, stretched, and
            mirror images of data that can be mirrored.
        smallest_crop: Least share of an image that ``crops`` takes.
        cutmix: How often a batch is mixed by CutMix.
        temperature: Of a teacher's labels.
        regression: Whether labels are values that logits shall equal; classes become 1 and 0 less their mean.
        average: Decay of the moving average of weights that is tested; 0: the last weights.

    Raises:
        InputError: When a number is out of range.
    """

    epochs: int
    lr: float
    learned_lr: bool = False
    optimizer: Optimizer = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int | None = 256
    schedule: Schedule = "drop"
    augment: Views = "none"
    smallest_crop: float = 0.08
    cutmix: float = 0.0
    temperature: float = 1.0
    regression: bool = False
    average: float = 0.0

    def __post_init__(self) -> None:
        for name, value, fine, accepted in (
            ("epochs", self.epochs, self.epochs >= 1, "at least 1"),
            ("lr", self.lr, math.isfinite(self.lr) and self.lr > 0, "finite and above 0"),
            ("batch_size", self.batch_size, self.batch_size is None or self.batch_size >= 1, "at least 1"),
            ("smallest_crop", self.smallest_crop, 0 < self.smallest_crop <= 1, "in (0, 1]"),
            ("cutmix", self.cutmix, 0 <= self.cutmix <= 1, "in [0, 1]"),
            ("temperature", self.temperature, self.temperature > 0, "above 0"),
            ("average", self.average, 0 <= self.average < 1, "in [0, 1)"),
        ):
            if not fine:
                raise InputError(f"{name} must be {accepted}, not {value}")
        for name, word, kind in (
            ("optimizer", self.optimizer, Optimizer),
            ("schedule", self.schedule, Schedule),
            ("augment", self.augment, Views),
        ):
            if word not in get_args(kind):
                raise InputError(f"{name}: {word!r} given; accepted are {', '.join(get_args(kind))}")

    @property
    def passes(self) -> int:
        """Epochs that are really made."""
        return self.epochs + (self.schedule == "drop")

    def images_a_step(self, images_per_class: int, num_classes: int) -> int:
        """The batch size for a set, at most its size.

        Args:
            images_per_class: Images of each class.
            num_classes: Number of classes.
        """
        size = self.batch_size
        if size is None and self.schedule == "replay":
            size = num_classes
        elif size is None:
            size = 10 if images_per_class <= 1 else 50 if images_per_class <= 10 else 100
            size *= 2 if num_classes >= 100 else 1
        return min(size, images_per_class * num_classes)

    def factor(self, step: int, steps_an_epoch: int) -> float:
        """What the learning rate is multiplied by.

        Args:
            step: Steps before this one.
            steps_an_epoch: Batches of an epoch.
        """
        epoch, total = step // steps_an_epoch, self.passes * steps_an_epoch
        if self.schedule == "drop":
            return 0.1 if epoch >= self.first_after_drop else 1.0
        if self.schedule == "steps":
            return 0.2 ** sum(epoch >= m for m in (2 * self.epochs // 3, 5 * self.epochs // 6))
        if self.schedule == "cosine":
            return (1 + math.cos(math.pi * epoch / self.epochs)) / 2
        if self.schedule == "half_cosine":
            return (1 + math.cos(math.pi * epoch / self.epochs / 2)) / 2
        if self.schedule == "warm_cosine":
            warm = min(WARM_UP, total // 2)
            if step < warm:
                return step / warm
            return 0.01 + 0.99 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm))) / 2
        return 1.0

    @property
    def first_after_drop(self) -> int:
        """The epoch that ``drop`` begins anew with."""
        return self.epochs // 2 + 2


#: The field's recipes.
RECIPES = {
    # Wang et al., 2018: ssnl/dataset-distillation:train_distilled_image.py. Replays the steps that were unrolled; where
    # these had several images of a class, batch_size says how many images.
    "dd": Recipe(
        epochs=1,
        lr=0.02,
        learned_lr=True,
        momentum=0.0,
        weight_decay=0.0,
        batch_size=None,
        schedule="replay",
    ),
    # Zhao et al., ICLR 2021: VICO-UoE/DatasetCondensation:utils.py (evaluate_synset). DM and DC without augmentation.
    "dc": Recipe(epochs=300, lr=0.01),
    # Zhao and Bilen, ICML 2021: the same with DSA, and longer.
    "dsa": Recipe(epochs=1000, lr=0.01, augment="dsa"),
    # Cazenavette et al., CVPR 2022: GeorgeCazenavette/mtt-distillation:utils.py. The learning rate is the learned one.
    "mtt": Recipe(epochs=1000, lr=0.01, learned_lr=True, augment="dsa"),
    # Kim et al., ICML 2022: snu-mllab/Efficient-Dataset-Condensation:train.py, argument.py; what it has for small
    # images (on ImageNet CutMix is certain, and there is no DSA). Cutout leaves the strategy where CutMix comes in.
    "idc": Recipe(epochs=1000, lr=0.01, batch_size=64, schedule="steps", augment="dsa", cutmix=0.5),
    # Yin et al., NeurIPS 2023: VILA-Lab/SRe2L:SRe2L/validate/train_FKD.py.
    "sre2l": Recipe(
        epochs=300,
        lr=1e-3,
        optimizer="adamw",
        weight_decay=0.01,
        batch_size=1024,
        schedule="cosine",
        augment="crops",
        cutmix=1.0,
        temperature=20.0,
    ),
    # Sun et al., CVPR 2024: LINs-lab/RDED:validation/main.py, argument.py, without its second pass of clean images,
    # which only moves the statistics of batch norms. smallest_crop is 1 / factor: 1 on images of up to 32 pixels.
    "rded": Recipe(
        epochs=300,
        lr=1e-3,
        optimizer="adamw",
        weight_decay=0.01,
        batch_size=None,
        schedule="half_cosine",
        augment="crops",
        smallest_crop=1.0,
        cutmix=1.0,
        temperature=20.0,
    ),
    # Zhou et al., NeurIPS 2022: yongchaoz/FRePo:script/eval.py for 10 images; 2000 epochs for 100. The authors'
    # networks have no norm, and rotate, shift and colour every image where DSA does one of these.
    "frepo": Recipe(
        epochs=1000,
        lr=3e-4,
        optimizer="adam",
        weight_decay=0.0,
        batch_size=500,
        schedule="warm_cosine",
        augment="dsa",
        regression=True,
        average=0.995,
    ),
}
RECIPES["fkd"] = RECIPES["sre2l"]


def recipe_of(name: str) -> Recipe:
    """The recipe of a name.

    Args:
        name: Of one of the field's recipes.

    Raises:
        InputError: When none has that name.

    Example:
        >>> recipe_of("dsa").epochs
        1000
    """
    if name not in RECIPES:
        raise InputError(f"recipe: {name!r} given; accepted are {', '.join(sorted(RECIPES))}")
    return RECIPES[name]
