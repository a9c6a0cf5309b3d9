"""Steps and sets without a trainer."""

import torch

from lit_distill.dataset.step import Labelled, Step
from lit_distill.dataset.synthetic.pixels import Pixels


def pixels(classes=3, images_per_class=2, shape=(1, 8, 8), kind=Pixels, **kwargs):
    """A set of random numbers."""
    synthetic = kind(images_per_class=images_per_class, **kwargs)
    synthetic.build(classes, shape)
    with torch.no_grad():
        for parameter in synthetic.parameters():
            parameter.normal_()
    return synthetic


def step(synthetic, number=0, seed=0, per_class=4, classes=None, augment=None):
    """A step with random real images."""
    classes = torch.arange(synthetic.num_classes) if classes is None else torch.tensor(classes)
    shape = (synthetic.num_classes, per_class, *synthetic.images.shape[2:])
    images = torch.randn(shape, generator=torch.Generator().manual_seed(number)).to(synthetic.images)
    real = Labelled(images[classes], classes[:, None].expand(-1, per_class))
    return Step(seed, number, classes, real, synthetic, augment)
