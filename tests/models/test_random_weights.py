import math

import pytest
import torch
from torch import nn

from lit_distill.errors import InputError
from lit_distill.models import MLP, ConvNet, interpolated, resnet8, seeded


def wide():
    return MLP(hidden=(400, 400))


def vector(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("model", [wide, lambda: ConvNet(width=4), resnet8])
def test_weights_depend_on_their_own_seed_alone(model):
    torch.manual_seed(1)
    first, drawn = seeded(model, seed=3), torch.rand(3)
    torch.manual_seed(2)
    assert same(seeded(model, seed=3), first)
    assert not same(seeded(model, seed=4), first)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), drawn)  # as if nothing had been drawn before
    torch.manual_seed(3)
    assert same(model(), first)  # what the network itself makes of that seed


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.8])
def test_lies_between_two_networks_and_keeps_their_variance(alpha):
    teacher, other, student = seeded(wide, 0), seeded(wide, 1), interpolated(wide, alpha)
    mixed = ((1 - alpha) * vector(teacher) + alpha * vector(other)) / math.hypot(alpha, 1 - alpha)
    torch.testing.assert_close(vector(student), mixed)
    for name, value in student.named_parameters():
        if name.endswith("weight"):
            assert value.std().item() == pytest.approx(teacher.get_parameter(name).std().item(), rel=0.03)


def test_the_ends_are_the_teacher_and_an_independent_network():
    assert same(interpolated(wide, 0.0, seed=8, teacher_seed=5), seeded(wide, 5))
    assert same(interpolated(wide, 1.0, seed=8, teacher_seed=5), seeded(wide, 8))


def test_weights_that_are_no_random_numbers_stay():
    student = interpolated(lambda: ConvNet(width=4), 0.5)
    norms = [module for module in student.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert all((norm.weight == 1).all() and (norm.bias == 0).all() for norm in norms)


def test_a_near_student_answers_almost_as_its_teacher():
    x, teacher = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(0)), seeded(wide)
    far = [(interpolated(wide, alpha)(x) - teacher(x)).norm().item() for alpha in (0.0, 0.01, 0.1, 0.5, 1.0)]
    assert far[0] == 0
    assert far == sorted(far)


def test_bad_input():
    with pytest.raises(InputError, match=r"alpha: 1.5 given to interpolated; accepted is a number in \[0, 1\]"):
        interpolated(wide, 1.5)
    with pytest.raises(InputError, match="this MLP was built already"):
        seeded(wide())
