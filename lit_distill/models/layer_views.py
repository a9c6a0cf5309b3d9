"""Which layers of a network are worth comparing, for those who name none."""

import re
from itertools import pairwise
from typing import Literal

from torch import nn

from lit_distill.errors import InputError
from lit_distill.models.staged import StagedNetwork

View = Literal["stages", "pre_activation", "middle", "last", "pooled"]

#: What timm lists in ``feature_info`` before the first stage.
STEM = re.compile(r"act1|bn1|stem|features\.norm0")

ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish)

#: Containers whose children are the stages or blocks, by the names that libraries give them.
CONTAINERS = ("backbone.fpn.layer_blocks", "blocks", "encoder.layers", "trunk_output", "stages", "layers")


def default_layers(network: nn.Module, view: View = "stages") -> tuple[str, ...]:
    """Paths of the layers that a view of a network consists of, from shallow to deep.

    ``stages`` are the ends of the stages of a convolutional network, without its stem, or the blocks of a transformer;
    ``pre_activation`` the same before their last activation, where they have one; ``middle`` and ``last`` one of them;
    ``pooled`` the vector that the classifier takes.

    Known are this library's networks, whatever timm describes in ``feature_info``, torchvision's families, and networks
    whose blocks stand in a container called ``blocks``, ``stages`` or ``layers``; of an ``InputAdapter`` the network
    within.

    Args:
        network: The network.
        view: Which layers.

    Raises:
        InputError: When nothing is known about such a network.

    Example:
        >>> from lit_distill.models import resnet20
        >>> default_layers(resnet20()), default_layers(resnet20(), "pooled")
        (('layer1', 'layer2', 'layer3'), ('flatten',))
    """
    inner = getattr(network, "model", None)
    if type(network).__name__ == "InputAdapter" and isinstance(inner, nn.Module):
        return tuple(f"model.{path}" for path in default_layers(inner, view))
    if view == "pooled":
        return (_pooled(network),)
    if view == "pre_activation":
        return _pre_activation(network)
    stages = _stages(network)
    if not stages:
        raise InputError(
            f"layers: not given, and nothing is known about the stages of {type(network).__name__}; accepted are "
            "{student path: teacher path}"
        )
    if view == "middle":
        return (stages[(len(stages) - 1) // 2],)
    return (stages[-1],) if view == "last" else stages


def paired(student: tuple[str, ...], teacher: tuple[str, ...]) -> dict[str, str]:
    """Pair layers of networks of different depth by their position.

    The network with fewer layers has all of them paired, each with that at the same fraction of the other's depth: the
    i-th of n with number ``ceil(i m / n)`` of m, so that the last ones are always a pair.

    Args:
        student: Layers of the student, from shallow to deep.
        teacher: Layers of the teacher.

    Example:
        >>> paired(("a", "b"), ("1", "2", "3", "4"))
        {'a': '2', 'b': '4'}
    """
    few = min(len(student), len(teacher))

    def chosen(layers: tuple[str, ...]) -> list[str]:
        return [layers[-(-i * len(layers) // few) - 1] for i in range(1, few + 1)]

    return dict(zip(chosen(student), chosen(teacher), strict=True))


def _stages(network: nn.Module) -> tuple[str, ...]:
    if isinstance(network, StagedNetwork):
        return network.stages()
    described = getattr(network, "feature_info", None)
    if described:
        info = getattr(described, "info", described)
        paths = [path for path in dict.fromkeys(entry["module"] for entry in info) if not STEM.fullmatch(path)]
        if paths and all(_has(network, path) for path in paths):
            return tuple(paths)
    for pattern in (r"layer\d+", r"stage\d+", r"features\.denseblock\d+"):
        found = tuple(name for name, _ in network.named_modules() if re.fullmatch(pattern, name))
        if found:
            return found
    for name in CONTAINERS:
        if _has(network, name):
            return tuple(f"{name}.{child}" for child, _ in network.get_submodule(name).named_children())
    return _of_features(network)


def _of_features(network: nn.Module) -> tuple[str, ...]:
    """Torchvision's networks that are one sequence: VGG before each pooling, others block by block after the stem."""
    features = getattr(network, "features", None)
    if not isinstance(features, nn.Sequential):
        return ()
    children = list(features.named_children())
    before_pooling = tuple(
        f"features.{a}" for (a, _), (_, after) in pairwise(children) if isinstance(after, nn.MaxPool2d)
    )
    return before_pooling or tuple(f"features.{name}" for name, _ in children[1:])


def _pre_activation(network: nn.Module) -> tuple[str, ...]:
    if isinstance(network, StagedNetwork):
        return network.stages(pre_activation=True)
    return tuple(_before_activation(network, stage) for stage in default_layers(network))


def _before_activation(network: nn.Module, stage: str) -> str:
    """The last activation of a stage's last block takes what is wanted; a stage that ends without one gives it."""
    blocks = list(network.get_submodule(stage).named_children())
    if not blocks:
        return f"{stage}:input" if isinstance(network.get_submodule(stage), ACTIVATIONS) else stage
    name, block = blocks[-1]
    # timm numbers them, torchvision calls one several times
    activations = [child for child, _ in block.named_children() if re.fullmatch(r"act\d*|relu\d*", child)]
    return f"{stage}.{name}.{max(activations)}:input" if activations else stage


def _pooled(network: nn.Module) -> str:
    if isinstance(network, StagedNetwork):
        return network.pooled_path
    from lit_distill.losses.classifier import classifier_of

    classifier = classifier_of(network, None, "layers")
    return next(f"{name}:input" for name, module in network.named_modules() if module is classifier)


def _has(network: nn.Module, path: str) -> bool:
    try:
        network.get_submodule(path)
    except AttributeError:
        return False
    return True
