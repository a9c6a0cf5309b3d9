"""Mixtures of a share of the samples alone."""

import random

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from lit_distill.data.counter_rng import Draw
from lit_distill.data.mix import Draws, Mix
from lit_distill.errors import InputError


class PartialMix(Mix):
    r"""Only a share of the samples are mixed, the others stay as they are: the data side of MIX-KD.

    Paper: Choi et al., Understanding the Role of Mixup in Knowledge Distillation: An Empirical Study, WACV 2023
        (partial mixup), https://arxiv.org/abs/2211.03946

    .. math:: (\tilde x_i, \tilde y_i) = \begin{cases}
        \lambda \, (x_i, y_i) + (1 - \lambda) \, (x_j, y_j) & u_i < \text{share} \\
        (x_i, y_i) & \text{otherwise} \end{cases} \qquad u_i \sim \mathrm{U}(0, 1)

    drawn anew for every sample in every epoch. Mixtures and a teacher's answers both smooth the student; its share
    sets how much of the former it gets. Both networks see the same batch, and the labels say what was mixed.

    Its loss divides the logits of each network by their standard deviation over the classes, in both terms and in
    place of a temperature: ``Standardised`` around ``CrossEntropy`` with weight 0.1 and around ``KD`` at temperature
    1 with weight 0.9. The preset ``mixupkd_digits`` is this.

    Args:
        mixture: How the samples are mixed: ``Mixup``, ``CutMix`` or ``MixupOrCutMix``.
        share: How many of the samples are mixed on average, in [0, 1]; the authors' code asks for a tenth.

    Shape:
        Images ``(B, C, H, W)`` and classes ``(B,)``; output images of the same shape and class probabilities
        ``(B, num_classes)``.

    Raises:
        InputError: If ``share`` lies outside [0, 1], or mixing is asked for without a number for each sample.

    Traps:
        - The authors' ``partmixup`` is the share that stays: 0.9 stands for a tenth.
        - They draw the samples that stay with replacement, so that of 64 samples 59 % stay where 90 % were asked for;
          ``share: 0.41`` is what their default really does.
        - They draw a weight for every sample and a partner from all of the batch; here weight and partner are those
          of ``mixture``.

    Code: ``hchoi71/MIX-KD:helper/loops_mixstd.py`` (PMU), ``distiller_zoo/MIXSTD.py`` (the loss).
    """

    def __init__(self, mixture: Mix, share: float = 0.1) -> None:
        if not 0 <= share <= 1:
            raise InputError(f"share: {share} is not in [0, 1]")
        self.mixture = mixture
        self.share = share

    def mix(self, x: Tensor, other: Tensor, rng: random.Random) -> tuple[Tensor, float]:
        """Mix each image with another, as ``mixture`` does."""
        return self.mixture.mix(x, other, rng)

    def __call__(
        self, x: Tensor, target: Tensor, num_classes: int, rng: random.Random, draw: Draws | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mix some images of a batch and their labels, see :meth:`Mix.__call__`."""
        if draw is None:
            raise InputError("draw: PartialMix got none; accepted is a function that gives a number for each sample")
        mixed, soft = self.mixture(x, target, num_classes, rng, draw)
        chosen = draw(Draw.MIX_SHARE) < self.share
        label = one_hot(target, num_classes).float()
        return torch.where(chosen[:, None, None, None], mixed, x), torch.where(chosen[:, None], soft, label)
