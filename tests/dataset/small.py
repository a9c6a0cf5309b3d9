"""Distilled sets that are chosen in no time."""

import torch

from lit_distill.data import ClassBatches, Digits
from lit_distill.dataset.artifact import save_distilled
from lit_distill.dataset.augment import SiameseAugmentation
from lit_distill.dataset.step import Labelled
from lit_distill.dataset.synthetic.selected import Selected

CLASSES = 10


def chosen(images_per_class=2, seed=0):
    """Real digits."""
    data = ClassBatches(Digits())
    data.setup("fit")
    synthetic = Selected(images_per_class)
    synthetic.build(data.num_classes, data.input_shape)
    synthetic.start(data, torch.Generator().manual_seed(seed))
    return synthetic.whole()


def saved(folder, images=None, **arguments):
    """Save a set of digits."""
    given = {
        "num_classes": CLASSES,
        "mean": Digits.mean,
        "std": Digits.std,
        "augment": SiameseAugmentation("color_crop_scale_rotate"),
        "about": {"data": "Digits", "synthetic": "Selected"},
    }
    return save_distilled(folder, chosen() if images is None else images, **(given | arguments))


def soft(images_per_class=2):
    """A set with logits as labels."""
    images, targets = chosen(images_per_class)
    return Labelled(images, 3.0 * torch.nn.functional.one_hot(targets, CLASSES).float())
