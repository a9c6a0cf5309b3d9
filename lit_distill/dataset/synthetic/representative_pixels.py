"""Images that begin as the most typical real ones."""

import torch
from torch import Tensor

from lit_distill.data.class_batches import ClassBatches
from lit_distill.dataset.synthetic.base import enough
from lit_distill.dataset.synthetic.pixels import Pixels

ROUNDS = 20


def central(images: Tensor, count: int, generator: torch.Generator, rounds: int = ROUNDS) -> Tensor:
    """The places of the images nearest to the centres of k-means, each of another one, int64 ``(count,)``.

    Args:
        images: ``(N, D)``.
        count: How many.
        generator: For the first centres.
        rounds: Of k-means at the most.

    Example:
        >>> points = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]])
        >>> central(points, 2, torch.Generator().manual_seed(0)).sort().values
        tensor([1, 4])
    """
    centres = images[torch.randperm(len(images), generator=generator)[:count].to(images.device)]
    for _ in range(rounds):
        nearest = torch.cdist(images, centres).argmin(1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, images)
        sizes = nearest.bincount(minlength=count)[:, None]
        moved = torch.where(sizes > 0, sums / sizes.clamp(min=1), centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    distances = torch.cdist(centres, images)
    chosen: list[int] = []
    for row in distances:
        row[chosen] = torch.inf
        chosen.append(int(row.argmin()))
    return torch.tensor(chosen)


class RepresentativePixels(Pixels):
    """Images whose every pixel is learned, from real ones at the centres of clusters of their class.

    Shen, Yang and Lam, Efficient Dataset Distillation through Alignment with Smooth and High-Quality Expert
    Trajectories, 2023, https://arxiv.org/abs/2310.10541. With one image a class it is the real image that is nearest to
    the mean of its class; clusters are of pixels.

    Args:
        images_per_class: How many images of each class are stored.
        clip: Whether pixels that leave what a picture can hold are brought back after each step.

    Raises:
        InputError: When ``images_per_class`` is below 1, or a class has fewer real images.
    """

    def __init__(self, images_per_class: int = 1, clip: bool = False) -> None:
        super().__init__(images_per_class, "real", clip)

    @torch.no_grad()
    def start(self, data: ClassBatches, generator: torch.Generator) -> None:
        """Choose the images."""
        super().start(data, generator)
        enough(data, self.images_per_class)
        for c in range(self.num_classes):
            real = data.images_of(c)
            self.images[c] = real[central(real.flatten(1), self.images_per_class, generator)]
