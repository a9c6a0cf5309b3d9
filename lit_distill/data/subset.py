"""Parts of the training samples, for training on fewer of them."""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor

from lit_distill.data.counter_rng import Draw, bits, key
from lit_distill.data.score_file import load_scores, recorded
from lit_distill.data.splits import proportional
from lit_distill.errors import InputError


class Subset(ABC):
    """Chooses some of the training samples.

    The choice depends on the samples alone: not on their order, nor on how many processes ask. A smaller fraction is
    a part of a larger one.

    Args:
        fraction: Share of the samples to keep, in (0, 1]; at least one is kept.
        balanced: Whether to keep the same share of every class.
        seed: Of the order among samples that are equally worth keeping.

    Raises:
        InputError: When ``fraction`` is outside (0, 1].
    """

    def __init__(self, fraction: float, balanced: bool = False, seed: int = 0) -> None:
        if not 0 < fraction <= 1:
            raise InputError(f"fraction: {fraction} is not in (0, 1]")
        self.fraction = fraction
        self.balanced = balanced
        self.seed = seed

    @abstractmethod
    def worth(self, positions: Tensor, targets: Tensor) -> Tensor:
        """How much each sample is worth keeping, ``(M,)``.

        Args:
            positions: Which samples, int64 ``(M,)``.
            targets: Class of every sample of the full training set, int64 ``(N,)``.
        """

    def __call__(self, positions: Tensor, targets: Tensor) -> Tensor:
        """The samples to keep, in the order in which they were given.

        Args:
            positions: The samples to choose from, int64 ``(M,)``.
            targets: Class of every sample of the full training set, int64 ``(N,)``.

        Returns:
            Positions, int64 ``(max(1, round(fraction * M)),)``.
        """
        shuffled = positions[bits(key(self.seed, 0, Draw.SUBSET), positions).argsort(stable=True)]
        ranked = shuffled[self.worth(shuffled, targets).argsort(descending=True, stable=True)]
        if self.balanced:
            ranked = proportional(ranked, targets)
        size = max(1, round(self.fraction * len(positions)))
        return positions[torch.isin(positions, ranked[:size])]


class RandomSubset(Subset):
    """Some of the training samples, at random.

    Paper: Ben-Baruch et al., Distilling the Knowledge in Data Pruning, ICML 2025, https://arxiv.org/abs/2403.07854

    With a teacher that was trained on all of the data, this keeps as much accuracy as subsets chosen by scores, or
    more.

    Args:
        fraction: Share of the samples to keep, in (0, 1]; at least one is kept.
        balanced: Whether to keep the same share of every class.
        seed: Of the choice.

    Raises:
        InputError: When ``fraction`` is outside (0, 1].

    Example:
        >>> targets = torch.tensor([0, 0, 0, 0, 1, 1])
        >>> targets[RandomSubset(0.5, balanced=True)(torch.arange(6), targets)].tolist()
        [0, 0, 1]
    """

    def worth(self, positions: Tensor, targets: Tensor) -> Tensor:
        """The same for all samples."""
        return torch.zeros(len(positions))


class ScoredSubset(Subset):
    """The training samples with the highest or the lowest scores (data pruning).

    Paper: Ben-Baruch et al., Distilling the Knowledge in Data Pruning, ICML 2025, https://arxiv.org/abs/2403.07854

    The callbacks ``EL2N`` and ``Forgetting`` record scores, both higher for harder samples. The hardest ones are those
    with doubtful labels too, of which a teacher that was trained on all of the data knows better: the paper finds that
    the best weight of the teacher's term depends on the fraction, so choose it anew by validation accuracy.

    Args:
        scores: The files; the mean of all of them counts, which is how scores of several runs are averaged.
        fraction: Share of the samples to keep, in (0, 1]; at least one is kept.
        keep: ``hardest`` keeps the highest scores, ``easiest`` the lowest.
        balanced: Whether to keep the same share of every class.
        seed: Of the order among samples with equal scores, of which forgetting leaves many.
        recipe: A preset whose callbacks record the files; it is run when one of them is missing. The network that
            it trains is kept beside the file, as ``<name>_network.safetensors``.

    Raises:
        InputError: When ``fraction`` is outside (0, 1], ``keep`` is unknown or there are no files; when data is read:
            a file is missing or damaged, belongs to other data, or has no score for a sample.
    """

    def __init__(
        self,
        scores: list[str],
        fraction: float,
        keep: Literal["hardest", "easiest"] = "hardest",
        balanced: bool = False,
        seed: int = 0,
        recipe: str | None = None,
    ) -> None:
        super().__init__(fraction, balanced, seed)
        if not scores:
            raise InputError("scores: got none; accepted are files that the callbacks EL2N and Forgetting write")
        if keep not in ("hardest", "easiest"):
            raise InputError(f"keep: {keep!r} is not hardest or easiest")
        self.scores = scores
        self.keep = keep
        self.recipe = recipe

    def worth(self, positions: Tensor, targets: Tensor) -> Tensor:
        """The mean score, negated where the easiest are kept.

        Raises:
            InputError: When a file is missing or damaged, belongs to other data, or has no score for a sample.
        """
        means = []
        for path in self.scores:
            mean = load_scores(recorded(path, self.recipe), targets)[positions]
            if (missing := int(mean.isnan().sum())) > 0:
                raise InputError(
                    f"scores: {path} has none for {missing} of {len(positions)} training samples; record them with the "
                    "same val_fraction and split_seed, and without limit or subset"
                )
            means.append(mean)
        score = torch.stack(means).mean(0)
        return score if self.keep == "hardest" else -score
