import pytest
import torch
from torch import nn
from torch.autograd import gradcheck
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.core.projectors import LinearProjector, MLPProjector, OrthogonalProjector
from lit_distill.errors import InputError
from lit_distill.losses import HiddenState
from lit_distill.losses.feature import hidden_state
from lit_distill.models import ConvNet, resnet8

SHAPES = [(4, 6, 5, 5), (4, 7, 6), (4, 6)]
distances = pytest.mark.parametrize("distance", ["mse", "cosine"])


def outputs(**features):
    return Outputs(torch.zeros(4, 10), features)


def built(student, teacher, **given):
    torch.manual_seed(0)
    loss = HiddenState(layers=dict(zip(student.features, teacher.features, strict=True)), **given)
    loss.build(student, teacher)
    return loss


@pytest.mark.parametrize("shape", SHAPES)
def test_by_hand(shape):
    student, teacher = torch.randn(2, *shape)
    torch.testing.assert_close(hidden_state(student, teacher), (student - teacher).square().mean())
    gaps = 1 - F.cosine_similarity(student, teacher, dim=1 if len(shape) == 4 else -1)
    torch.testing.assert_close(hidden_state(student, teacher, "cosine"), gaps.mean())


@distances
def test_nothing_to_learn_from_oneself(distance):
    student, teacher = torch.randn(2, 4, 7, 6, dtype=torch.float64)
    value = hidden_state(student.requires_grad_(), student.detach(), distance)
    (gradient,) = torch.autograd.grad(value, student)
    assert value == 0
    assert gradient.abs().max() < 1e-15
    assert hidden_state(student, teacher, distance) > 0.1


@distances
@pytest.mark.parametrize("shape", [(2, 3, 2, 2), (2, 4, 3), (2, 3)])
def test_gradcheck(distance, shape):
    student, teacher = torch.randn(2, *shape, dtype=torch.float64)
    assert gradcheck(lambda s: hidden_state(s, teacher, distance), student.requires_grad_())


@distances
def test_a_mean_over_samples(distance):
    student, teacher = torch.randn(2, 4, 7, 6)
    parts = zip(student.split(1), teacher.split(1), strict=True)
    each = torch.stack([hidden_state(s, t, distance) for s, t in parts])
    torch.testing.assert_close(hidden_state(student, teacher, distance), each.mean())


def test_a_cosine_sees_no_scale_and_lies_between_0_and_2():
    student, teacher = torch.randn(2, 4, 7, 6, dtype=torch.float64)
    scales = torch.rand(4, 7, 1) + 0.1
    given = hidden_state(student * scales, 30 * teacher, "cosine")
    torch.testing.assert_close(given, hidden_state(student, teacher, "cosine"))
    torch.testing.assert_close(hidden_state(-3 * teacher, teacher, "cosine").item(), 2.0)


def test_a_small_angle_keeps_its_digits():
    teacher = torch.randn(4, 64)
    student = teacher + 1e-4 * torch.randn(4, 64)
    exact = 1 - F.cosine_similarity(student.double(), teacher.double())
    torch.testing.assert_close(hidden_state(student, teacher, "cosine").double(), exact.mean(), rtol=1e-2, atol=0)


@distances
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_and_empty_activations(distance, dtype):
    student = (1e4 * torch.randn(4, 7, 6)).to(dtype)
    student[0], student[1, 2] = 0, 0
    student.requires_grad_()
    teacher = (1e4 * torch.randn(4, 7, 6)).to(dtype)
    teacher[1] = 0
    value = hidden_state(student, teacher, distance)
    (gradient,) = torch.autograd.grad(value, student)
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert gradient.isfinite().all()


@distances
def test_autocast_changes_nothing_without_a_projector(distance):
    student, teacher = outputs(a=torch.randn(4, 6, 5, 5)), outputs(b=torch.randn(4, 6, 5, 5))
    loss = built(student, teacher, distance=distance)
    exact = loss(student, teacher, torch.zeros(4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert loss(student, teacher, torch.zeros(4)) == exact


@pytest.mark.parametrize(
    ("student", "teacher", "compared"),
    [
        ((3, 8, 8), (5, 4, 4), (5, 4, 4)),
        ((3, 4, 4), (5, 8, 8), (5, 4, 4)),
        ((17, 3), (17, 5), (17, 5)),
        ((18, 3), (17, 5), (5, 4, 4)),
        ((3, 8, 8), (17, 5), (5, 4, 4)),
        ((17, 3), (5, 8, 8), (5, 4, 4)),
        ((3,), (5,), (5,)),
        ((3,), (5, 8, 8), (5, 1, 1)),
        ((17, 3), (5,), (5, 1, 1)),
    ],
)
def test_what_is_compared(student, teacher, compared):
    said = outputs(a=torch.randn(4, *student)), outputs(b=torch.randn(4, *teacher))
    loss = built(*said)
    seen = []
    loss.bridges[0].register_forward_hook(lambda module, args, output: seen.append(output.shape[1:]))
    loss(*said, torch.zeros(4)).backward()
    assert seen == [compared]
    assert all(p.grad.abs().max() > 0 for p in loss.parameters())


def test_the_class_token_is_compared_with_the_other():
    student, teacher = outputs(a=torch.randn(4, 17, 6)), torch.randn(4, 17, 6)
    loss = built(student, outputs(b=teacher))
    changed = teacher.clone()
    changed[:, 0] += 5
    values = [loss(student, outputs(b=t), torch.zeros(4)) for t in (teacher, changed)]
    assert abs(values[0] - values[1]) > 0.1


def test_a_projector_where_channels_differ_and_sum_over_pairs():
    student = outputs(a=torch.randn(4, 3, 8, 8), b=torch.randn(4, 7))
    teacher = outputs(c=torch.randn(4, 5, 8, 8), d=torch.randn(4, 7))
    loss = built(student, teacher)
    assert [type(bridge) for bridge in loss.bridges] == [LinearProjector, nn.Identity]
    first = hidden_state(loss.bridges[0](student.features["a"]), teacher.features["c"])
    second = hidden_state(student.features["b"], teacher.features["d"])
    torch.testing.assert_close(loss(student, teacher, torch.zeros(4)), first + second)


@pytest.mark.parametrize("kind", [LinearProjector, MLPProjector, OrthogonalProjector])
def test_a_given_projector_is_copied_for_every_pair(kind):
    student = outputs(a=torch.randn(4, 3, 8, 8), b=torch.randn(4, 7))
    teacher = outputs(c=torch.randn(4, 5, 8, 8), d=torch.randn(4, 7))
    loss = built(student, teacher, projector=kind())
    assert [type(bridge) for bridge in loss.bridges] == [kind, kind]
    assert all(name.startswith("bridges.") for name in loss.state_dict())
    loss(student, teacher, torch.zeros(4)).backward()
    assert all(p.grad.isfinite().all() for p in loss.parameters())


def test_a_linear_relation_is_learnt():
    x = torch.randn(64, 4, 3)
    student, teacher = Outputs(x, {"a": x}), Outputs(x, {"b": x @ torch.randn(3, 5) + torch.randn(5)})
    loss = built(student, teacher)
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        value = loss(student, teacher, torch.zeros(64))
        value.backward()
        optimizer.step()
    assert value < 1e-4


def test_default_layers():
    loss = HiddenState()
    loss.choose_layers(ConvNet(depth=2), resnet8())
    assert loss.layers == {"blocks.0.relu": "layer2", "blocks.1.relu": "layer3"}


def test_messages():
    with pytest.raises(InputError, match="distance must be mse or cosine, got 'l1'"):
        HiddenState(distance="l1")
    with pytest.raises(InputError, match="HiddenState must be built with the outputs of a dry run"):
        HiddenState(layers={"a": "b"})(outputs(a=torch.zeros(4, 3)), outputs(b=torch.zeros(4, 5)), torch.zeros(4))
    with pytest.raises(InputError, match="activations must be of one shape"):
        hidden_state(torch.zeros(4, 3), torch.zeros(4, 5))
