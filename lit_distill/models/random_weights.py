"""Networks whose random weights are part of an experiment."""

from collections.abc import Callable
from math import hypot

import torch
from torch import nn

from lit_distill.errors import InputError


def seeded(model: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A network whose initial weights are those of a seed of its own.

    They are the same in every run, whatever the global seed and whatever was built before, and the global
    random-number generator goes on as if nothing had been drawn. For teachers that are never trained (Sarnthein et
    al., Random Teachers are Good Teachers, ICML 2023, https://arxiv.org/abs/2302.12091), and for students that begin
    where a teacher began.

    Args:
        model: Builds the network on the CPU. In YAML its class, e.g. ``{class_path: lit_distill.models.MLP}`` with its
            arguments; a function such as ``resnet8`` would be called too early.
        seed: Of its random weights.

    Raises:
        InputError: When ``model`` is a network already.

    Example:
        >>> first, again, other = (seeded(lambda: nn.Linear(2, 2), seed) for seed in (0, 0, 1))
        >>> torch.equal(first.weight, again.weight), torch.equal(first.weight, other.weight)
        (True, False)
    """
    if isinstance(model, nn.Module):
        raise InputError(
            f"model: this {type(model).__name__} was built already, with other weights; accepted is what builds one "
            "(in YAML a class with its arguments, in Python a function without arguments)"
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the accelerators too
        return model()


@torch.no_grad()
def interpolated(model: Callable[[], nn.Module], alpha: float, seed: int = 1, teacher_seed: int = 0) -> nn.Module:
    r"""A random student at a chosen distance from a random teacher, ``seeded(model, teacher_seed)``.

    Paper: Sarnthein et al., Random Teachers are Good Teachers, ICML 2023, https://arxiv.org/abs/2302.12091

    .. math:: \theta_S = \frac{(1 - \alpha) \, \theta_T + \alpha \, \tilde\theta}{\delta}, \qquad
        \delta = \sqrt{\alpha^2 + (1 - \alpha)^2}

    with the teacher's weights :math:`\theta_T` and independent ones :math:`\tilde\theta`; :math:`\delta` keeps their
    variance. With 0 the student is the teacher, with 1 independent of it. On CIFAR-10 the paper finds that a student
    without labels gets better features than such a teacher has, the better the nearer they begin; ``LinearProbe``
    measures both.

    Parameters that are no random numbers, such as the scale of BatchNorm, stay as they are; the formula and
    ``safelix/dinopl:configuration.py`` (init_student_teacher) divide them too.

    Args:
        model: Builds the network on the CPU, as for ``seeded``.
        alpha: Distance from the teacher, in [0, 1].
        seed: Of the random weights that are mixed in.
        teacher_seed: Of the teacher's weights.

    Raises:
        InputError: When ``alpha`` is outside its range, or ``model`` is a network already.

    Example:
        >>> student = interpolated(lambda: nn.Linear(2, 2), alpha=0.0)
        >>> torch.equal(student.weight, seeded(lambda: nn.Linear(2, 2), seed=0).weight)
        True
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha: {alpha} given to interpolated; accepted is a number in [0, 1]")
    student, other = seeded(model, teacher_seed), seeded(model, seed)
    for own, drawn in zip(student.parameters(), other.parameters(), strict=True):
        if not torch.equal(own, drawn):
            own.lerp_(drawn, alpha).div_(hypot(alpha, 1 - alpha))
    return student
