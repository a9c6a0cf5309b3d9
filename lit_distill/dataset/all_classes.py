"""Real images of the classes of all processes."""

import torch

from lit_distill.dataset.step import Labelled, Step
from lit_distill.losses.gather import gathered


@torch.no_grad()
def real_of_all(step: Step, per_class: int | None = None) -> Labelled:
    """The real images of a step with those of the other processes, sorted by class; every process must call it.

    Args:
        step: The step.
        per_class: How many images of each class. Default: all.
    """
    images, targets = (gathered(part[:, :per_class].contiguous()) for part in step.real)
    order = targets[:, 0].argsort()
    return Labelled(images[order], targets[order])
