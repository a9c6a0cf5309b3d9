"""Layers that nobody has to name."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from lit_distill.core.taps import Taps
from lit_distill.errors import InputError
from lit_distill.models import InputAdapter, default_layers, paired, resnet20

TIMM = ["resnet10t", "mobilenetv3_small_050", "convnext_atto", "vit_tiny_patch16_224", "regnetx_002", "repvgg_a0"]
TORCHVISION = ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "regnet_x_400mf", "squeezenet1_1"]


def seen(network, view, size=64):
    """Shapes of a view's layers, from a pass in which no later operation overwrites them."""
    taps = Taps(network.eval(), default_layers(network, view))
    with torch.no_grad(), taps.checked(network):
        network(torch.randn(1, 3, size, size))
    return {path: tuple(value.shape) for path, value in taps.pop().items()}


@pytest.mark.parametrize("name", TIMM)
def test_timm(name):
    network = timm.create_model(name)
    size = 224 if "vit" in name else 64
    stages = seen(network, "stages", size)
    assert len(stages) == (12 if "vit" in name else 4)
    if "vit" not in name:
        sides = [shape[-1] for shape in stages.values()]
        assert sides == sorted(sides, reverse=True)
        assert sides[0] > sides[-1]
    assert seen(network, "last", size).keys() == {list(default_layers(network))[-1]}
    (pooled,) = seen(network, "pooled", size).values()
    assert pooled == (1, network.get_classifier().in_features)
    assert len(seen(network, "pre_activation", size)) == len(stages)


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name):
    network = getattr(torchvision.models, name)(weights=None)
    stages = seen(network, "stages")
    assert len(stages) >= 3
    assert len(seen(network, "pre_activation")) == len(stages)


def test_pre_activation_is_what_the_last_activation_takes():
    network = torchvision.models.resnet18(weights=None).eval()
    paths = default_layers(network, "pre_activation")
    assert paths[0] == "layer1.1.relu:input"
    taps = Taps(network, [*paths, *default_layers(network)])
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad(), taps.checked(network):  # the activation was in place, and would have overwritten its input
        network(x)
    values = taps.pop()
    for before, after in zip(paths, default_layers(network), strict=True):
        assert bool((values[before] < 0).any())
        assert torch.equal(values[before].relu(), values[after])


def test_an_adapter_passes_on_the_network_within():
    assert default_layers(InputAdapter(resnet20()), "last") == ("model.layer3",)


def test_views_are_parts_of_each_other():
    network = resnet20()
    stages = default_layers(network)
    assert default_layers(network, "middle") == (stages[1],)
    assert default_layers(network, "last") == (stages[-1],)


def test_an_unknown_network_is_told_what_is_accepted():
    with pytest.raises(InputError, match=r"layers: not given, and nothing is known about the stages of Linear"):
        default_layers(nn.Linear(2, 2))


@pytest.mark.parametrize(("few", "many"), [(1, 4), (2, 4), (3, 12), (3, 5), (4, 4)])
def test_pairs_by_position(few, many):
    a, b = tuple(f"s{i}" for i in range(1, few + 1)), tuple(f"t{i}" for i in range(1, many + 1))
    forward, backward = paired(a, b), paired(b, a)
    assert tuple(forward) == a  # the shallower network has every layer paired
    assert {t: s for s, t in forward.items()} == backward  # whoever is the student
    assert forward[a[-1]] == b[-1]  # the last ones are a pair
    positions = [b.index(t) for t in forward.values()]
    assert positions == sorted(set(positions))  # in order, none twice
