"""A student that ends in its teacher's classifier, and how its parts are found."""

import copy

import pytest
import timm
import torch
import torchvision
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from lit_distill.core.taps import Taps
from lit_distill.errors import InputError
from lit_distill.losses.classifier import classifier_of
from lit_distill.models import (
    MLP,
    ConvNet,
    InputAdapter,
    macs,
    mobilenet_v2_half,
    resnet8,
    restored,
    shufflenet_v1,
    shufflenet_v2,
    vgg8,
    wrn_16_1,
)
from lit_distill.models.last_map import last_map
from lit_distill.models.reused_classifier import ReusedClassifier
from lit_distill.student_file import save_student

SHAPE = (3, 16, 16)
NETWORKS = {
    "resnet": (resnet8, "layer3"),
    "wrn": (wrn_16_1, "relu"),
    "vgg": (vgg8, "relu4"),
    "mobilenet": (mobilenet_v2_half, "conv2"),
    "shuffle_v1": (shufflenet_v1, "layer3"),
    "shuffle_v2": (shufflenet_v2, "relu2"),
    "adapted": (lambda: InputAdapter(resnet8(), size=16), "model.layer3"),
    "timm": (lambda: timm.create_model("resnet10t", num_classes=100), "layer4"),
    "torchvision": (lambda: torchvision.models.mobilenet_v2(num_classes=100), "features"),
}


def worn(network, shape=SHAPE):
    """Statistics of normalisation that are not those of a new network."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.running_var, 0.5, 2.0, generator=generator)
            nn.init.normal_(module.bias, generator=generator)
    return network.eval()


def student(network=None, teacher=None, **given):
    torch.manual_seed(0)
    network = ConvNet(width=8, depth=2) if network is None else network
    return ReusedClassifier(network, resnet8(num_classes=10) if teacher is None else teacher, SHAPE, **given)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_classifier_sees_the_mean_of_the_last_map(name, trained):
    make, path = NETWORKS[name]
    torch.manual_seed(0)
    network = worn(make()) if trained else make().eval()
    classifier = classifier_of(network, None, "network")
    found, shape = last_map(network, classifier, SHAPE)
    assert found == path
    taps = Taps(worn(network), [found])
    x = torch.randn(2, *SHAPE)
    with torch.no_grad():
        logits = network(x)
        feature = taps.pop()[found]
        torch.testing.assert_close(classifier(feature.mean((2, 3))), logits)
    assert feature.shape == shape


def test_looking_for_the_last_map_leaves_no_trace():
    network = resnet8().train()
    network.layer1.eval()
    state, mode = copy.deepcopy(network.state_dict()), [module.training for module in network.modules()]
    random = torch.get_rng_state()
    last_map(network, network.fc, SHAPE)
    assert torch.equal(random, torch.get_rng_state())
    assert mode == [module.training for module in network.modules()]
    torch.testing.assert_close(state, network.state_dict(), rtol=0, atol=0)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def relu_after_the_mean():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.ReLU(), nn.Linear(4, 10))
    with torch.no_grad():
        network[0].bias[:2] = -9.0  # below zero whatever the input: the ReLU does something
    return network


OTHERS = {
    "mlp": lambda: MLP(input_shape=SHAPE),
    "class token": lambda: VisionTransformer(img_size=16, patch_size=4, embed_dim=16, depth=1, num_heads=2),
    "maximum": lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(4, 10)),
    "relu after the mean": relu_after_the_mean,
}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_networks_whose_classifier_sees_something_else(make):
    torch.manual_seed(0)
    network = make()
    for both in ((network, resnet8()), (resnet8(), network)):
        with pytest.raises(InputError, match=f"{type(network).__name__} must have a classifier that sees the mean of"):
            ReusedClassifier(*both, SHAPE)


def test_answers_come_through_the_projector():
    made = student().eval()
    x = torch.randn(4, *SHAPE)
    inner = Taps(made, ["network.blocks.1.pool", "projector"])  # the pooling happens to average to the right size
    logits = made(x)
    seen = inner.pop()
    torch.testing.assert_close(made.projector(seen["network.blocks.1.pool"]), seen["projector"])
    torch.testing.assert_close(made.classifier(seen["projector"].mean((2, 3))), logits)
    assert seen["projector"].shape == (4, 64, 4, 4)
    assert seen["projector"].min() >= 0


@pytest.mark.parametrize(("depth", "size"), [(1, 4), (2, 4), (3, 4), (4, 2)])
def test_a_larger_map_of_the_student_is_averaged(depth, size):
    made = student(ConvNet(width=8, depth=depth))
    taps = Taps(made, ["projector"])
    made(torch.randn(4, *SHAPE))
    assert taps.pop()["projector"].shape[2:] == (size, size)


def test_its_own_classifier_is_gone_and_the_teachers_stands_still():
    teacher = resnet8(num_classes=7)
    made = student(teacher=teacher)
    assert isinstance(made.network.fc, nn.Identity)
    made(torch.randn(4, *SHAPE)).square().sum().backward()
    trained = {name for name, parameter in made.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, parameter in made.named_parameters() if parameter.requires_grad}
    assert {name for name, _ in made.named_parameters()} - trained == {"classifier.weight", "classifier.bias"}
    assert torch.equal(made.classifier.weight, teacher.fc.weight)
    assert teacher.fc.weight.requires_grad
    assert not any(module is part for part in made.modules() for module in teacher.modules())


@pytest.mark.parametrize("factor", [1, 2, 64])
def test_width_within_the_projector(factor):
    projector = student(factor=factor).projector
    assert [layer.num_features for layer in projector if isinstance(layer, nn.BatchNorm2d)] == [
        64 // factor,
        64 // factor,
        64,
    ]


def test_the_student_file_holds_all_that_an_answer_takes(tmp_path):
    made = worn(student(teacher=worn(resnet8(num_classes=10))))
    save_student(made, tmp_path / "student.safetensors", {})
    torch.manual_seed(9)
    other = ReusedClassifier(ConvNet(width=8, depth=2), resnet8(num_classes=10), SHAPE).eval()
    x = torch.randn(4, *SHAPE)
    assert not torch.allclose(other(x), made(x))
    restored(other, str(tmp_path / "student.safetensors"))
    torch.testing.assert_close(other(x), made(x), rtol=0, atol=0)


def test_copies_do_not_share_what_they_saw():
    made = student().eval()
    other = copy.deepcopy(made)
    x = torch.randn(4, *SHAPE)
    nn.init.zeros_(other.projector[0].weight)
    torch.testing.assert_close(made(x), student().eval()(x))
    assert not torch.allclose(made(x), other(x))
    assert not made.taps.seen
    assert not other.taps.seen


def test_it_can_be_exported():
    made = worn(student())
    x = torch.randn(4, *SHAPE)
    program = torch.export.export(made, (x,))
    torch.testing.assert_close(program.module()(x), made(x))


def test_the_projector_is_counted():
    alone, made = ConvNet(width=8, depth=2), student()
    middle, positions = 32, 16
    projector = positions * (8 * middle + 9 * middle**2 + middle * 64)
    assert macs(made, SHAPE) == macs(alone, SHAPE) - 8 * 10 + projector + 64 * 10


@pytest.mark.parametrize("factor", [0, 65])
def test_bad_factor(factor):
    with pytest.raises(InputError, match=f"factor must be from 1 to the teacher's 64 channels, not {factor}"):
        student(factor=factor)


def test_images_that_a_network_does_not_take():
    with pytest.raises(InputError, match=r"ConvNet takes images \(batch, 1, height, width\)"):
        ReusedClassifier(ConvNet(in_channels=1, depth=2), resnet8(), SHAPE)
    with pytest.raises(InputError, match=r"input_shape: Sequential does not take \(3, 16, 16\): Given groups=1"):
        ReusedClassifier(nn.Sequential(nn.Conv2d(1, 4, 1), nn.Flatten(), nn.Linear(4, 2)), resnet8(), SHAPE)
