"""Distribution matching (DM)."""

import torch
from torch import Tensor, nn

from lit_distill.dataset.embedding import embed
from lit_distill.dataset.objectives.base import Objective
from lit_distill.dataset.pieces import pieces
from lit_distill.dataset.step import Purpose, Step
from lit_distill.losses.precision import fp32


@fp32
def mean_distance(synthetic: Tensor, real: Tensor) -> Tensor:
    r"""Squared distance between class means, summed over classes.

    .. math:: \sum_c \Big\lVert \frac{1}{n} \sum_i f(x_{c,i}) - \frac{1}{m} \sum_j f(s_{c,j}) \Big\rVert^2

    Args:
        synthetic: Features ``(K, m, D)``.
        real: Features ``(K, n, D)``.
    """
    return (real.mean(1) - synthetic.mean(1)).square().sum()


class DistributionMatching(Objective):
    """Synthetic images whose features have, in random networks, the same mean as those of the real images.

    Paper: Zhao and Bilen, Dataset Condensation with Distribution Matching, WACV 2023, https://arxiv.org/abs/2110.04181

    Takes any network that ends in a linear layer, and a sampler of fresh ones (:class:`Fresh`); all classes pass it in
    one batch, which is what the authors do for networks with BatchNorm, and the same as theirs for all others.

    Code: ``VICO-UoE/DatasetCondensation:main_DM.py``
    """

    def forward(self, step: Step, network: nn.Module) -> Tensor:
        """The distance between class means, summed over this process's classes."""
        real, synthetic = step.real.images, step.synthetic.decode(step.classes).images
        if step.augment is not None:
            drawn = step.augment.draw([step.generator(Purpose.AUGMENT, int(c)) for c in step.classes])
            real, synthetic = step.augment(real, drawn), step.augment(synthetic, drawn)
        with torch.no_grad():
            of_real = torch.cat([embed(network, part) for part in pieces(real.flatten(0, 1), network)])
        of_synthetic = embed(network, synthetic.flatten(0, 1))
        return mean_distance(of_synthetic.unflatten(0, synthetic.shape[:2]), of_real.unflatten(0, real.shape[:2]))
