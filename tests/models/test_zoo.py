"""The CIFAR networks against counts and shapes of the authors' own (tests/golden/models.json)."""

import json
from math import prod
from pathlib import Path

import pytest
import torch
from torch import nn

from lit_distill import models
from lit_distill.errors import InputError
from lit_distill.models import macs

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "models.json").read_text())["models"]
OTHER_NAMES = {
    "MobileNetV2": "mobilenet_v2_half",
    "ShuffleV1": "shufflenet_v1",
    "ShuffleV2": "shufflenet_v2",
    "ResNet50": "resnet50",
}
# One network of each family, where the depth makes no difference.
FAMILIES = ["resnet8", "wrn_16_2", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2", "ResNet50"]


def build(name, **arguments):
    torch.manual_seed(0)
    return getattr(models, OTHER_NAMES.get(name, name))(**arguments)


class Tapped:
    """Runs a network and keeps what passed through paths, as it was at that moment and as it is now."""

    def __init__(self, network, paths):
        self.network, self.calls, self.then, self.now = network, dict.fromkeys(paths, 0), {}, {}
        for path in paths:
            module = network.get_submodule(path.removesuffix(":input"))
            if path.endswith(":input"):
                module.register_forward_pre_hook(lambda _, args, path=path: self.keep(path, args[0]))
            else:
                module.register_forward_hook(lambda _, args, out, path=path: self.keep(path, out))

    def keep(self, path, value):
        self.calls[path] += 1
        self.then[path], self.now[path] = value.detach().clone(), value

    def __call__(self, x):
        return self.network(x)


def paths_of(network, pre_activation):
    return [network.stem_path, *network.stages(pre_activation), network.pooled_path]


@pytest.mark.parametrize("name", GOLDEN)
def test_counts(name):
    network, golden = build(name), GOLDEN[name]
    assert sum(p.numel() for p in network.parameters()) == golden["params"]
    assert sum(b.numel() for b in network.buffers()) == golden["buffers"]
    for kind in (nn.Conv2d, nn.BatchNorm2d, nn.Linear):
        count = sum(type(module) is kind for module in network.modules())
        assert count == golden[f"modules_{kind.__name__.lower()}"]


@pytest.mark.parametrize("name", GOLDEN)
def test_macs(name):
    assert macs(build(name), (3, 32, 32)) == GOLDEN[name]["macs_conv_linear"]


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("kind", ["post", "pre"])
def test_stages(name, kind):
    network, golden = build(name), GOLDEN[name]
    paths = paths_of(network, kind == "pre")
    tapped = Tapped(network, paths)
    with torch.no_grad():
        logits = tapped(torch.randn(2, 3, 32, 32))
    assert [list(tapped.now[path].shape[1:]) for path in paths] == golden[f"stage_shapes_{kind}_activation"]
    assert list(logits.shape[1:]) == golden["logits"]
    assert set(tapped.calls.values()) == {1}
    if kind == "pre":
        assert [bool((tapped.now[p] < 0).any()) for p in paths] == golden["pre_activation_has_negative"]


@pytest.mark.parametrize("name", FAMILIES)
def test_pre_activation_becomes_the_stage(name):
    network = build(name).eval()
    post, pre = network.stages(), network.stages(pre_activation=True)
    tapped = Tapped(network, {*post, *pre})
    with torch.no_grad():
        tapped(torch.randn(2, 3, 32, 32))
    for after, before in zip(post, pre, strict=True):
        if name == "MobileNetV2":
            assert after == before
        elif name == "wrn_16_2":
            # Nothing is rectified at the end of the stage; the next stage begins with this norm.
            norm = network.get_submodule(before.replace("relu1:input", "bn1").replace("relu:input", "bn1"))
            torch.testing.assert_close(norm(tapped.now[after]), tapped.now[before], rtol=0, atol=0)
        else:
            assert (tapped.now[after] >= 0).all()
            torch.testing.assert_close(tapped.now[before].relu(), tapped.now[after], rtol=0, atol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_nothing_changes_a_tapped_feature(name):
    network = build(name)
    paths = {*paths_of(network, True), *paths_of(network, False)}
    # Inputs and outputs of every single module, too.
    paths |= {path for path, _ in network.named_modules() if path}
    tapped = Tapped(network, paths)
    tapped(torch.randn(2, 3, 32, 32)).sum().backward()
    assert tapped.now
    for path, value in tapped.now.items():
        assert torch.equal(tapped.then[path], value), path


@pytest.mark.parametrize("name", FAMILIES)
def test_pooled_vector_is_what_the_classifier_sees(name):
    network = build(name).eval()
    tapped = Tapped(network, [network.pooled_path])
    with torch.no_grad():
        logits = tapped(torch.randn(2, 3, 32, 32))
        classifier = network.get_submodule(network.classifier_path)
        assert torch.equal(classifier(tapped.now[network.pooled_path]), logits)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("size", [8, 28])
def test_small_grey_images(name, size):
    network = build(name, num_classes=7, in_channels=1)
    logits = network(torch.randn(4, 1, size, size))
    assert logits.shape == (4, 7)
    logits.logsumexp(1).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_wrong_images_are_refused(name):
    with pytest.raises(InputError, match=r"takes images \(batch, 1, height, width\).*not \(2, 3, 32, 32\)"):
        build(name, in_channels=1)(torch.zeros(2, 3, 32, 32))


def test_vgg_names_the_size_it_cannot_take():
    with pytest.raises(InputError, match=r"8x8 pixels, not \(2, 3, 7, 8\)"):
        build("vgg8")(torch.zeros(2, 3, 7, 8))


def test_vgg_pools_large_images_once_more():
    network = build("vgg8").eval()
    tapped = Tapped(network, ["relu3", "relu4"])
    with torch.no_grad():
        tapped(torch.zeros(1, 3, 64, 64))
    assert [tapped.now[path].shape[-1] for path in ("relu3", "relu4")] == [8, 4]


@pytest.mark.parametrize(("name", "depth"), [("CifarResNet", 9), ("CifarResNet", 2)])
def test_resnet_depth_is_checked(name, depth):
    with pytest.raises(InputError, match=rf"depth must be 6 n \+ 2 .*not {depth}"):
        models.CifarResNet(depth, (16, 16, 32, 64))


@pytest.mark.parametrize("depth", [4, 17])
def test_wrn_depth_is_checked(depth):
    with pytest.raises(InputError, match=rf"depth must be 6 n \+ 4 .*not {depth}"):
        models.WideResNet(depth, 1)


def test_vgg_groups_are_checked():
    with pytest.raises(InputError, match="convolutions must be five positive numbers"):
        models.CifarVGG((1, 1, 0, 1, 1))


@pytest.mark.parametrize("name", FAMILIES)
def test_initial_convolutions(name):
    for module in build(name).modules():
        if not isinstance(module, nn.Conv2d) or module.weight.numel() < 20_000:
            continue
        weight = module.weight.detach()
        if name.startswith("Shuffle"):  # PyTorch's own: uniform by fan-in
            bound = prod(weight.shape[1:]) ** -0.5
            assert weight.abs().max() <= bound
            expected = bound / 3**0.5
        else:
            expected = (2 / (module.kernel_size[0] ** 2 * module.out_channels)) ** 0.5
        assert weight.std().item() == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("name", FAMILIES)
def test_initial_classifier(name):
    network = build(name)
    classifier = network.get_submodule(network.classifier_path)
    zero_bias = name in ("wrn_16_2", "vgg8", "MobileNetV2")
    assert bool((classifier.bias == 0).all()) is zero_bias
    uniform = classifier.in_features**-0.5 / 3**0.5
    expected = 0.01 if name in ("vgg8", "MobileNetV2") else uniform
    assert classifier.weight.std().item() == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("resnet8", ["conv1.weight", "bn1.bias", "layer2.0.downsample.1.running_mean", "layer3.0.conv2.weight"]),
        ("wrn_16_2", ["block1.layer.0.convShortcut.weight", "block3.layer.1.bn2.bias", "bn1.weight", "fc.bias"]),
        ("vgg8", ["block0.0.bias", "block4.1.running_var", "classifier.weight"]),
        ("vgg13", ["block0.3.weight", "block2.4.weight"]),
        ("MobileNetV2", ["conv1.0.weight", "blocks.5.2.conv.7.bias", "conv2.1.weight", "classifier.0.bias"]),
        ("ShuffleV1", ["layer1.0.conv3.weight", "layer2.7.bn3.bias", "linear.weight"]),
        ("ShuffleV2", ["layer1.0.bn5.weight", "layer2.7.conv3.weight", "conv2.weight", "linear.bias"]),
        ("ResNet50", ["layer1.0.shortcut.0.weight", "layer4.2.bn3.weight", "linear.bias"]),
    ],
)
def test_weights_are_named_as_in_the_authors_checkpoints(name, keys):
    assert set(keys) <= set(build(name).state_dict())
