"""Trained networks that stay as they are: one teacher, or several that vote."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from lit_distill.core.classification import example_forward
from lit_distill.data.class_batches import ClassBatches
from lit_distill.dataset.networks.base import NetworkSampler
from lit_distill.dataset.step import Purpose, Step, generator
from lit_distill.errors import InputError


class Votes(NamedTuple):
    """Networks in eval mode, and how much each of them says.

    Attributes:
        networks: The networks.
        weights: Weight of each network for the first image of every class, for the second, ...; ``(n, networks)``, on
            the CPU. Rows sum to 1, and 0 is a network that is not asked.
    """

    networks: tuple[nn.Module, ...]
    weights: Tensor


def voting_weights(prior: Tensor, temperature: float = 5.0) -> Tensor:
    """Softmax of how good networks are.

    Args:
        prior: In percent, ``(networks,)``.
        temperature: The higher the more alike.

    Example:
        >>> voting_weights(torch.tensor([60.0, 60.0]))
        tensor([0.5000, 0.5000])
    """
    return (prior / temperature).softmax(0)


def knows(teacher: nn.Module, data: ClassBatches, name: str) -> None:
    """Refuse a teacher of other data.

    Args:
        teacher: The network.
        data: The real images.
        name: What the message calls the network.

    Raises:
        InputError: When it does not take their images, or knows another number of classes.
    """
    classes = example_forward(teacher, data.input_shape, name).shape[-1]
    if classes != data.num_classes:
        raise InputError(f"{name} knows {classes} classes, and the data has {data.num_classes}")


class Committee(NetworkSampler):
    r"""Trained networks: the teacher of decoupled methods, or several of which some vote on each image.

    With one teacher it is that teacher in every step, as :class:`SRe2L` and :class:`CDA` want it. With more it is the
    committee of CV-DD.

    Paper: Cui et al., Dataset Distillation via Committee Voting, arXiv 2025, https://arxiv.org/abs/2501.07575.
    For each image of a class, counted alike in all classes, ``voters`` of the teachers are drawn once and for all, and
    their losses are weighted by

    .. math:: w_k = \frac{\exp(p_k / T)}{\sum_j \exp(p_j / T)}

    where :math:`p_k` is how well, in percent, networks do that were trained on what teacher k alone distilled.

    Args:
        teachers: The networks by name, e.g. ``restored`` from a file with a recipe that trains it.
        prior: Of each teacher, in percent. Default: all vote alike.
        voters: How many vote on an image; the authors take 2 of 5. Default: all.
        temperature: :math:`T`.

    Raises:
        InputError: When there is no teacher, one knows other classes than the data has, ``prior`` does not name just
            the teachers, or another argument is outside its range.

    Code: ``Jiacheng8/CV-DD:recover/recover.py``, ``recover/utils_recover.py``. There the temperature is that high as
    accuracies are in percent.
    """

    def __init__(
        self,
        teachers: dict[str, nn.Module],
        prior: dict[str, float] | None = None,
        voters: int | None = None,
        temperature: float = 5.0,
    ) -> None:
        super().__init__()
        if not teachers:
            raise InputError("teachers: none given; a committee has at least one")
        if prior is not None and set(prior) != set(teachers):
            raise InputError(f"prior must be of {', '.join(teachers)}, not of {', '.join(prior) or 'none'}")
        if voters is not None and not 1 <= voters <= len(teachers):
            raise InputError(f"voters must be from 1 to the number of teachers, {len(teachers)}, not {voters}")
        if not temperature > 0:
            raise InputError(f"temperature must be positive, not {temperature}")
        self.names = tuple(teachers)
        # a tuple, as the networks must be no submodules
        self.teachers = tuple(teacher.eval().requires_grad_(False) for teacher in teachers.values())
        self.prior = torch.tensor([0.0 if prior is None else float(prior[name]) for name in teachers])
        self.voters = len(teachers) if voters is None else voters
        self.temperature = temperature

    def start(self, data: ClassBatches, device: torch.device) -> None:
        """Make sure that the teachers know the data.

        Raises:
            InputError: When one does not take its images, or knows another number of classes.
        """
        for name, teacher in zip(self.names, self.teachers, strict=True):
            knows(teacher, data, f"teachers.{name}")

    def draw(self, step: Step) -> Votes:
        """The committee; who votes on which image depends on the seed alone."""
        n = step.synthetic.images_per_class
        weights = torch.zeros(n, len(self.teachers))
        for i in range(n):
            order = torch.randperm(len(self.teachers), generator=generator(step.seed, Purpose.NETWORK, i))
            chosen = order[: self.voters]
            weights[i, chosen] = voting_weights(self.prior[chosen], self.temperature)
        asked = [k for k in range(len(self.teachers)) if bool(weights[:, k].any())]
        networks = tuple(self.teachers[k].to(step.device) for k in asked)
        return Votes(networks, weights[:, asked])
