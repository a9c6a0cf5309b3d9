"""The BatchNorm that OFD takes a layer's margins from."""

import pytest
import timm
import torchvision
from torch import nn

from lit_distill.losses.feature.norm_before import norm_before
from lit_distill.models import ConvNet, default_layers, mobilenet_v2_half, resnet20, resnet50, vgg13, wrn_16_2

NETWORKS = {
    "resnet20": (resnet20, [f"layer{i}.2.bn2" for i in (1, 2, 3)]),
    "resnet50": (resnet50, ["layer1.2.bn3", "layer2.3.bn3", "layer3.5.bn3", "layer4.2.bn3"]),
    "wrn": (wrn_16_2, ["block2.layer.0.bn1", "block3.layer.0.bn1", "bn1"]),
    "vgg13": (vgg13, [f"block{i}.4" for i in (1, 2, 3, 4)]),
    "mobilenet_v2": (mobilenet_v2_half, [f"blocks.{i}.{j}.conv.7" for i, j in ((1, 1), (2, 2), (4, 2), (6, 0))]),
    "convnet": (lambda: ConvNet(depth=2), ["blocks.0.norm", "blocks.1.norm"]),
    "timm resnet18": (lambda: timm.create_model("resnet18"), [f"layer{i}.1.bn2" for i in (1, 2, 3, 4)]),
    "torchvision resnet18": (torchvision.models.resnet18, [f"layer{i}.1.bn2" for i in (1, 2, 3, 4)]),
    "torchvision vgg11": (torchvision.models.vgg11_bn, [f"features.{i}" for i in (1, 5, 12, 19, 26)]),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_of_the_default_layers(name):
    make, expected = NETWORKS[name]
    network = make()
    paths = {module: path for path, module in network.named_modules()}
    assert [paths[norm_before(network, layer)] for layer in default_layers(network, "pre_activation")] == expected


def test_a_sequence_calls_its_activation_where_it_stands():
    network = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3))
    assert norm_before(network, "1:input") is network[0]
    assert norm_before(network, "1") is None
    assert norm_before(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)), "0:input") is None
