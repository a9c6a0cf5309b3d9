"""Pairs of layers for terms that are given none."""

from torch import nn

from lit_distill.models.layer_views import View, default_layers, paired


def layer_pairs(
    student: nn.Module, teacher: nn.Module, learnt: View, taught: View, member: str | None = None
) -> dict[str, str]:
    """Default layers of both networks, paired by their position.

    Args:
        student: The student itself.
        teacher: The whole teacher.
        learnt: Which layers of the student.
        taught: Which layers of the teacher.
        member: Name of the member of an ensemble that is meant.

    Raises:
        InputError: When nothing is known about a network.

    Example:
        >>> from lit_distill.models import ConvNet, resnet8
        >>> layer_pairs(ConvNet(depth=2), resnet8(), "last", "pooled")
        {'blocks.1.relu': 'flatten'}
    """
    prefix = "" if member is None else f"members.{member}."
    network = teacher.get_submodule(prefix.removesuffix("."))
    pairs = paired(default_layers(student, learnt), default_layers(network, taught))
    return {s: prefix + t for s, t in pairs.items()}
