"""Images that agree with what a trained network remembers of its data (SRe2L, CDA)."""

import math
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lit_distill.dataset.crops import cropped, random_box
from lit_distill.dataset.networks.committee import Votes
from lit_distill.dataset.objectives.base import Objective
from lit_distill.dataset.step import Purpose, Step
from lit_distill.errors import InputError
from lit_distill.losses.gather import gathered
from lit_distill.losses.precision import fp32


class Agreement(NamedTuple):
    """How far groups of images are from what a network expects.

    Attributes:
        cross_entropy: Mean over a group, ``(G,)``.
        gaps: Of each BatchNorm layer, ``(layers, G)``.
    """

    cross_entropy: Tensor
    gaps: Tensor


def batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """The BatchNorm layers of a network, which remember statistics.

    Raises:
        InputError: When there is none.
    """
    layers = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not layers:
        raise InputError(
            f"networks: {type(network).__name__} has no BatchNorm with running statistics, which are what images are "
            "recovered from; use a network that has, e.g. CondensationConvNet with norm: batch"
        )
    return layers


@fp32
def statistics_gap(z: Tensor, mean: Tensor, variance: Tensor, share: Tensor) -> Tensor:
    r"""Distance of a batch's mean and variance from those a BatchNorm layer remembers, as plain norms.

    .. math:: \lVert \mu(z) - \hat\mu \rVert_2 + \lVert \sigma^2(z) - \hat\sigma^2 \rVert_2

    with the biased variance over images and places. Processes that share a group find the same gap, and each its part
    of the gradient.

    Args:
        z: Inputs of the layer, ``(G, B, C, ...)``, for ``G`` groups of images.
        mean: Running mean, ``(C,)``.
        variance: Running variance, ``(C,)``.
        share: Of each process in the images of a group, ``(processes,)``; here ``[1.0]``.

    Returns:
        ``(G,)``.
    """
    z = z.flatten(3) if z.ndim > 3 else z[..., None]
    moments = gathered(torch.stack([z.mean((1, 3)), z.var((1, 3), unbiased=False)])[None])
    means, variances = moments.unbind(1)
    share = share[:, None, None].to(z.dtype)
    own_mean = (share * means).sum(0)
    own_variance = (share * (variances + (means - own_mean).square())).sum(0)
    return (own_mean - mean).norm(dim=-1) + (own_variance - variance).norm(dim=-1)


def agreement(network: nn.Module, images: Tensor, targets: Tensor, share: Tensor) -> Agreement:
    """How far groups of images are from what a network expects, seen from the inputs of its BatchNorm layers.

    Args:
        network: In eval mode.
        images: This process's images of each group, ``(G, B, C, H, W)``.
        targets: Their classes, int64 ``(G, B)``.
        share: Of each process in the images of a group, ``(processes,)``.

    Raises:
        InputError: When the network has no BatchNorm layer.
    """
    layers = batch_norms(network)
    inputs: dict[nn.Module, Tensor] = {}

    def listen(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        inputs[layer] = args[0].unflatten(0, images.shape[:2])

    handles = [layer.register_forward_pre_hook(listen) for layer in layers]
    try:
        logits = network(images.flatten(0, 1))
    finally:
        for handle in handles:
            handle.remove()
    rows = nn.functional.cross_entropy(logits, targets.flatten(), reduction="none")
    remembered = [(layer, cast(Tensor, layer.running_mean), cast(Tensor, layer.running_var)) for layer in layers]
    gaps = [statistics_gap(inputs[layer], mean, variance, share) for layer, mean, variance in remembered]
    means = gathered(rows.unflatten(0, targets.shape).mean(1)[None])
    return Agreement((share[:, None].to(rows.dtype) * means).sum(0), torch.stack(gaps))


@fp32
def total_variation(images: Tensor) -> Tensor:
    r"""Norms of the differences of neighbours: left and right, above and below, and along both diagonals, summed.

    Args:
        images: ``(G, B, C, H, W)``; a norm is over a whole group, on all processes.

    Returns:
        ``(G,)``.
    """
    x = images
    differences = (
        x[..., :, 1:] - x[..., :, :-1],
        x[..., 1:, :] - x[..., :-1, :],
        x[..., 1:, :-1] - x[..., :-1, 1:],
        x[..., 1:, 1:] - x[..., :-1, :-1],
    )
    norms = torch.stack([d.flatten(1).norm(dim=1) for d in differences])
    return gathered(norms[None]).norm(dim=0).sum(0)


class SRe2L(Objective):
    r"""Images in which a trained network sees their classes and the statistics that it remembers of its own data.

    Paper: Yin, Xing and Shen, Squeeze, Recover and Relabel: Dataset Condensation at ImageNet Scale From A New
    Perspective, NeurIPS 2023, https://arxiv.org/abs/2306.13092

    .. math:: \mathrm{CE}\big(f(\tilde x), y\big) + \alpha \sum_l \beta_l \Big( \lVert \mu_l(\tilde x) - \hat\mu_l
        \rVert_2 + \lVert \sigma_l^2(\tilde x) - \hat\sigma_l^2 \rVert_2 \Big)

    over the inputs of the BatchNorm layers :math:`l`, with :math:`\beta_1` of the first and 1 of the others. A batch is
    one image of each class: the first of all classes, the second of all, ... are seen apart. :math:`\tilde x` is a
    random crop, mirrored or not and rolled around its edges, the same for all images of a batch.

    The networks come from a :class:`Committee` of one teacher, or of more, which makes it CV-DD (Cui et al. 2025,
    https://arxiv.org/abs/2501.07575). No real image is looked at. The authors begin with noise, keep pixels in their
    valid range (``Pixels`` with ``init: noise`` and ``clip: true``) and use Adam with learning rate 0.25, betas (0.5,
    0.9) and a cosine over 4000 steps; for CIFAR-100 1000 steps without crops and with ``jitter`` 4. Networks are to be
    trained on crops that the teacher labels: see ``lit-distill relabel``.

    Args:
        statistics_weight: :math:`\alpha`. 0.01 in the authors' script, though their program's default is 0.05.
        first_weight: :math:`\beta_1`.
        smallest_crop: Least share of the image that a crop shows; 1 takes whole images.
        flip: Whether half of the batches are mirrored. Not for digits.
        jitter: Largest number of pixels to roll by.
        tv_weight: Of the total variation of a batch.
        l2_weight: Of the mean norm of an image.

    Raises:
        InputError: When the teacher has no BatchNorm layer, or an argument is outside its range.

    Traps:
        - Norms are not squared, and variances are biased.
        - In mixtures and soft labels lies most of the accuracy: compare with random images that have them too.

    Code: ``VILA-Lab/SRe2L:SRe2L/recover/data_synthesis.py``
    """

    def __init__(
        self,
        statistics_weight: float = 0.01,
        first_weight: float = 10.0,
        smallest_crop: float = 0.08,
        flip: bool = True,
        jitter: int = 32,
        tv_weight: float = 0.0,
        l2_weight: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 < smallest_crop <= 1:
            raise InputError(f"smallest_crop must be in (0, 1], not {smallest_crop}")
        if jitter < 0:
            raise InputError(f"jitter must be at least 0, not {jitter}")
        self.statistics_weight = statistics_weight
        self.first_weight = first_weight
        self.smallest_crop = smallest_crop
        self.flip = flip
        self.jitter = jitter
        self.tv_weight = tv_weight
        self.l2_weight = l2_weight

    def least(self, number: int) -> float:
        """Least share of the image that a crop shows.

        Args:
            number: Steps so far.
        """
        return self.smallest_crop

    def seen(self, step: Step, images: Tensor) -> Tensor:
        """What the networks get to see of the images.

        Args:
            step: The step.
            images: ``(G, B, C, H, W)``; those of a group go through the same.
        """
        groups = []
        for i, group in enumerate(images):
            rng = step.generator(Purpose.AUGMENT, i)
            size = group.shape[-2], group.shape[-1]
            group = cropped(group, random_box(size, rng, self.least(step.number)), size)
            flip, down, right = torch.rand(3, generator=rng).tolist()
            if self.flip and flip < 0.5:
                group = group.flip(-1)
            shifts = int(down * (self.jitter + 1)), int(right * (self.jitter + 1))
            groups.append(group.roll(shifts, (-2, -1)))
        return torch.stack(groups)

    def forward(self, step: Step, network: Votes) -> Tensor:
        """This process's share of the loss, summed over batches."""
        images = step.synthetic.decode(step.classes).images.transpose(0, 1)
        targets = step.classes.to(images.device).expand(len(images), -1)
        return self.loss(network, self.seen(step, images), targets)

    def loss(self, votes: Votes, images: Tensor, targets: Tensor) -> Tensor:
        """The loss of images as networks see them, of which every process finds the whole and returns its part.

        Args:
            votes: Networks and their weights.
            images: This process's images of each batch, ``(G, B, C, H, W)``.
            targets: Their classes, int64 ``(G, B)``.
        """
        counts = gathered(torch.tensor([images.shape[1]], device=images.device))
        share = counts / counts.sum()
        loss = images.new_zeros(())
        for network, weights in zip(votes.networks, votes.weights.T, strict=True):
            asked = weights.nonzero().flatten()
            place = asked.to(images.device)
            terms = agreement(network, images[place], targets[place], share)
            loss = loss + (weights[asked].to(images.device) * self.weighted(terms)).sum()
        if self.tv_weight:
            loss = loss + self.tv_weight * total_variation(images).sum()
        if self.l2_weight:
            norms = images.flatten(2).norm(dim=2).mean(1)
            loss = loss + self.l2_weight * (share[:, None] * gathered(norms[None])).sum()
        return loss / len(counts)

    def weighted(self, terms: Agreement) -> Tensor:
        """Cross entropy and gaps as one number a batch, ``(G,)``."""
        gaps = terms.gaps.sum(0) + (self.first_weight - 1) * terms.gaps[0]
        return terms.cross_entropy + self.statistics_weight * gaps


class CDA(SRe2L):
    r"""SRe2L with a curriculum: whole images first, then ever smaller crops.

    Paper: Yin and Shen, Dataset Distillation via Curriculum Data Synthesis in Large Data Era, TMLR 2024,
    https://arxiv.org/abs/2311.18838. The least share of a crop in step t of T is

    .. math:: a + (1 - a) \, \tfrac12 \Big( 1 + \cos \frac{\pi t}{T} \Big)

    with a = ``smallest_crop``; afterwards it stays that.

    Args:
        curriculum: :math:`T`, in steps; the authors' share of all steps is 1.

    Raises:
        InputError: When ``curriculum`` is below 1.

    Code: ``VILA-Lab/SRe2L:CDA/recover_cda_in1k.py`` (``--easy2hard-mode cosine --milestone 1``)

    Example:
        >>> cda = CDA(curriculum=4000)
        >>> [round(cda.least(t), 2) for t in (0, 2000, 4000)]
        [1.0, 0.54, 0.08]
    """

    def __init__(self, curriculum: int = 4000, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if curriculum < 1:
            raise InputError(f"curriculum must be at least 1, not {curriculum}")
        self.curriculum = curriculum

    def least(self, number: int) -> float:
        """Least share of the image that a crop shows; see :meth:`SRe2L.least`."""
        progress = min(1.0, number / self.curriculum)
        return self.smallest_crop + (1 - self.smallest_crop) * (1 + math.cos(math.pi * progress)) / 2
