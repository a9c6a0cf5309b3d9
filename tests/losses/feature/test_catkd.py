import pytest
import torch
from torch import nn
from torch.autograd import gradcheck
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import CATKD
from lit_distill.losses.feature import catkd, class_activation_maps
from lit_distill.models import ConvNet, Ensemble, resnet8


def maps(size=(4, 6)):
    student = torch.randn(3, 5, *size, dtype=torch.float64, requires_grad=True)
    return student, torch.randn(3, 5, 4, 4, dtype=torch.float64)


def attached(**given):
    student, teacher = nn.Linear(8, 10), nn.Linear(6, 10)
    loss = CATKD(layers={"a": "b"}, **given)
    loss.attach(student, teacher)
    return loss, student, teacher


def outputs(size=4, **given):
    said = {"a": torch.randn(3, 8, size, size), "b": torch.randn(3, 6, 4, 4)} | given
    return Outputs(torch.zeros(3, 10), said)


def test_the_mean_of_a_map_is_the_logit_of_its_class():
    feature, classifier = torch.randn(2, 8, 4, 4), nn.Linear(8, 10)
    cams = class_activation_maps(feature, classifier.weight)
    torch.testing.assert_close(cams.mean((2, 3)) + classifier.bias, classifier(feature.mean((2, 3))))
    torch.testing.assert_close(cams[:, 3, 1, 2], feature[:, :, 1, 2] @ classifier.weight[3])


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("resolution", [1, 2, 3])
def test_averaged_to_the_resolution_then_normalised(normalise, resolution):
    student, teacher = maps()
    s, t = (F.adaptive_avg_pool2d(x, resolution) for x in (student, teacher))
    if normalise:
        s, t = (x / x.square().sum((2, 3), keepdim=True).sqrt() for x in (s, t))
    torch.testing.assert_close(catkd(student, teacher, resolution, normalise), (s - t).square().mean())


def test_without_the_norm_one_cell_compares_logits():
    student, teacher = maps()
    logits = [x.mean((2, 3)) for x in (student, teacher)]
    torch.testing.assert_close(catkd(student, teacher, 1, normalise=False), F.mse_loss(*logits))


def test_the_norm_frees_the_scale_of_each_class():
    student, teacher = maps()
    factor = 1 + torch.rand(3, 5, 1, 1)
    torch.testing.assert_close(catkd(factor * student, teacher), catkd(student, teacher))
    assert (catkd(factor * student, teacher, 2, False) - catkd(student, teacher, 2, False)).abs() > 1e-3


@pytest.mark.parametrize("normalise", [True, False])
def test_gradient(normalise):
    student, teacher = maps()
    assert gradcheck(lambda s: catkd(s, teacher, 2, normalise), student)
    value = catkd(student, student.detach(), 2, normalise)
    (gradient,) = torch.autograd.grad(value, student)
    assert value == 0
    assert gradient.abs().max() == 0


@pytest.mark.parametrize("normalise", [True, False])
def test_classes_that_are_not_seen(normalise):
    student, teacher = (x.detach().clone() for x in maps())
    student[0], teacher[1] = 0, 0
    student.requires_grad_()
    catkd(student, teacher, 2, normalise).backward()
    assert student.grad.abs().max() < 1e3


@pytest.mark.parametrize("normalise", [True, False])
def test_large_maps_in_half_precision_under_autocast(normalise):
    student, teacher = ((1e4 * torch.randn(3, 5, 4, 4)).bfloat16() for _ in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = catkd(student, teacher, 2, normalise)
    assert value.dtype == torch.float32
    exact = catkd(student.double(), teacher.double(), 2, normalise)
    torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize("resolution", [2, 3])
def test_maps_of_the_networks_own_classifiers(resolution):
    loss, student, teacher = attached(resolution=resolution)
    said, taught = outputs(size=6), outputs()
    given = loss(said, taught, torch.zeros(3))
    s = class_activation_maps(said.features["a"], student.weight)
    t = class_activation_maps(taught.features["b"], teacher.weight)
    torch.testing.assert_close(given, catkd(s, t, resolution))


def test_the_students_classifier_learns_and_is_no_part_of_the_term():
    loss, student, _ = attached()
    assert not list(loss.parameters())
    loss(outputs(), outputs(), torch.zeros(3)).backward()
    assert student.weight.grad.abs().max() > 0
    assert student.bias.grad is None


def test_finds_last_maps_and_classifiers():
    student, teacher = ConvNet(depth=2), Ensemble({"one": resnet8(), "two": resnet8()})
    loss = CATKD(teacher="two")
    loss.choose_layers(student, teacher)
    loss.attach(student, teacher)
    assert loss.layers == {"blocks.1.relu": "members.two.layer3"}
    assert loss.classifiers[0] is student.fc
    assert loss.classifiers[1] is teacher.members["two"].fc


def test_bad_input():
    with pytest.raises(InputError, match="resolution must be positive, got 0"):
        CATKD(resolution=0)
    with pytest.raises(InputError, match="layers must be one pair"):
        CATKD(layers={"a": "a", "b": "b"})
    with pytest.raises(InputError, match="of the same samples and classes, got"):
        catkd(torch.zeros(3, 5, 4, 4), torch.zeros(3, 6, 4, 4))
    with pytest.raises(InputError, match=r"got no attach\(\)"):
        CATKD(layers={"a": "b"})(outputs(), outputs(), torch.zeros(3))
    loss, _, _ = attached()
    wrong = outputs(a=torch.zeros(3, 7, 4, 4))
    with pytest.raises(InputError, match=r"layers must be a map \(B, 8, H, W\), .*, got a \(3, 7, 4, 4\)"):
        loss(wrong, outputs(), torch.zeros(3))
