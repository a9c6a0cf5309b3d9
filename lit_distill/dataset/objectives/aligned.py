"""Trajectories as difficult as the set is large (DATM)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lit_distill.data.class_batches import ClassBatches
from lit_distill.dataset.networks.base import NetworkSampler
from lit_distill.dataset.networks.experts import Experts, Trajectory
from lit_distill.dataset.objectives.trajectory import MTT
from lit_distill.dataset.step import Labelled
from lit_distill.dataset.synthetic.base import SyntheticSet
from lit_distill.dataset.synthetic.learned_logits import LearnedLogits
from lit_distill.dataset.unroll import Route, Stateless
from lit_distill.errors import InputError

BATCH = 512


def agreed_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean logits of those experts that are right about an image.

    Args:
        logits: ``(experts, N, classes)``.
        labels: True classes, ``(N,)``.

    Returns:
        ``(N, classes)``; not numbers where no expert is right.
    """
    right = (logits.argmax(2) == labels)[..., None]
    return (logits * right).sum(0) / right.sum(0)


class DATM(MTT):
    r"""MTT with learned soft labels, on trajectories that are as difficult as suits the size of the set.

    Paper: Guo et al., Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching, ICLR 2024,
    https://arxiv.org/abs/2310.05773, section 4

    As MTT, with cross entropy to :math:`\operatorname{softmax}(z)` of learned logits :math:`z`
    (:class:`LearnedLogits`). Images start as real ones that an expert is right about, and their logits as the mean of
    the experts that are; those that are wanted beyond them stay as the set begins by itself. Small sets match early
    epochs, large ones late epochs: ``min_start``, ``max_start`` and ``first_max_start`` of :class:`Experts`. A step
    whose loss is above ``threshold`` moves nothing, momentum included; of several experts in a step those above it are
    left out.

    The authors take 80 steps, :math:`M` 2, 10,000 iterations, and learning rates of 100 to 1000 for images, 2 to 10 for
    logits, and 1e-7 to 1e-5 for the step size.

    Args:
        steps: Of the student.
        batch_size: Synthetic images a step. Default: all.
        step_size: First step size of the student.
        step_size_lr: Learning rate of the step size.
        route: How gradients come back through the steps.
        threshold: Loss above which a step is skipped; 1 to 1.1 in the authors' configurations.
        labels_at: Epoch of the experts that label the first images; negative ones count from the last.

    Raises:
        InputError: As of :class:`MTT`; when the set has no learned logits.

    Code: ``NUS-HPC-AI-Lab/DATM:distill/DATM.py``; with ``route: tesla`` ``distill/DATM_tesla.py``
    """

    def __init__(
        self,
        steps: int = 80,
        batch_size: int | None = None,
        step_size: float = 0.01,
        step_size_lr: float = 1e-5,
        route: Route = "recompute",
        threshold: float = 1.0,
        labels_at: int = -1,
    ) -> None:
        super().__init__(steps, batch_size, step_size, step_size_lr, route)
        if not threshold > 0:
            raise InputError(f"threshold must be positive, not {threshold}")
        self.threshold = threshold
        self.labels_at = labels_at

    @torch.no_grad()
    def start(
        self, synthetic: SyntheticSet, networks: NetworkSampler, data: ClassBatches, generator: torch.Generator
    ) -> None:
        """Take real images that an expert is right about, and label them."""
        if not isinstance(synthetic, LearnedLogits) or not isinstance(networks, Experts):
            raise InputError(
                f"synthetic: DATM takes LearnedLogits and Experts, not {type(synthetic).__name__} and "
                f"{type(networks).__name__}"
            )
        device = synthetic.images.device
        network = networks.stateless
        weights = [at.to(device) for at in networks.at(self.labels_at)]
        count = synthetic.images_per_class
        for c in range(synthetic.num_classes):
            real = data.images_of(c)
            chosen, found = [], 0
            for part in real[torch.randperm(len(real), generator=generator)].split(BATCH):
                labels = agreed_logits(said(network, weights, part.to(device)), torch.tensor(c, device=device))
                right = labels.isfinite().all(1)
                chosen.append((part.to(device)[right], labels[right]))
                found += int(right.sum())
                if found >= count:
                    break
            images, logits = (torch.cat(parts)[:count] for parts in zip(*chosen, strict=True))
            synthetic.images[c, : len(images)], synthetic.logits[c, : len(images)] = images, logits

    def targets(self, synthetic: Labelled, trajectory: Trajectory) -> Tensor:
        """Probabilities."""
        return synthetic.targets.softmax(-1)

    def distance(self, *args: Any) -> Tensor:
        """How far the student ends from the expert, without a gradient where that is above the threshold."""
        value = super().distance(*args)
        if bool(value <= self.threshold):
            return value
        images, targets = args[1:3]
        return value.detach() + 0 * (images.sum() + targets.sum() + self.rate.sum())  # data parallelism wants gradients

    def before_update(self, parameters: Sequence[Tensor]) -> None:
        """Let a step that was skipped by all processes move nothing."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if not any(bool(gradient.any()) for gradient in gradients):
            for parameter in parameters:
                parameter.grad = None


def said(network: Stateless, weights: Sequence[Tensor], x: Tensor) -> Tensor:
    """The logits of several experts, ``(experts, N, classes)``.

    Args:
        network: The network.
        weights: Of each expert.
        x: Images ``(N, C, H, W)``.
    """
    return torch.stack([network(at, x) for at in weights])
