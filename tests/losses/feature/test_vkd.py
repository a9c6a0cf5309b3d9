import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import VkD
from lit_distill.losses.feature import vkd
from lit_distill.models import ConvNet, Ensemble, resnet8


def outputs(**features):
    return Outputs(torch.zeros(4, 10), features)


def built(student, teacher):
    torch.manual_seed(0)
    loss = VkD(layers=dict(zip(student.features, teacher.features, strict=True)))
    loss.build(student, teacher)
    return loss


def test_by_hand():
    student, teacher = torch.randn(4, 6), 7 + 3 * torch.randn(4, 6)
    mean, std = teacher.mean(1, keepdim=True), teacher.std(1, keepdim=True, correction=0)
    gap = (student - (teacher - mean) / std).abs()
    expected = torch.where(gap < 1, gap.square() / 2, gap - 0.5).mean()
    torch.testing.assert_close(vkd(student, teacher), expected, rtol=1e-5, atol=0)


def test_zero_where_the_standardised_feature_is_met():
    teacher = torch.randn(4, 6, dtype=torch.float64)
    student = F.layer_norm(teacher, (6,)).requires_grad_()
    value = vkd(student, teacher)
    (gradient,) = torch.autograd.grad(value, student)
    assert value == 0
    assert gradient.abs().max() == 0


def test_scale_and_offset_of_the_teacher_do_not_matter():
    student, teacher = torch.randn(2, 4, 6, dtype=torch.float64)
    moved = teacher * torch.tensor([[1.0], [2.0], [30.0], [400.0]]) + torch.randn(4, 1)
    torch.testing.assert_close(vkd(student, moved), vkd(student, teacher), rtol=1e-4, atol=0)
    assert abs(vkd(student * 2, teacher) - vkd(student, teacher)) > 1e-2


def test_a_mean_over_samples():
    student, teacher = torch.randn(2, 4, 6)
    each = torch.stack([vkd(s, t) for s, t in zip(student.split(1), teacher.split(1), strict=True)])
    torch.testing.assert_close(vkd(student, teacher), each.mean())


def test_gradcheck():
    student, teacher = torch.randn(2, 3, 5, dtype=torch.float64)
    assert gradcheck(lambda s: vkd(s, teacher), student.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_and_constant_features(dtype):
    student = (1e4 * torch.randn(4, 6)).to(dtype).requires_grad_()
    teacher = (1e4 * torch.randn(4, 6)).to(dtype)
    teacher[0], teacher[1] = 1e4, 0
    value = vkd(student, teacher)
    (gradient,) = torch.autograd.grad(value, student)
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize(("narrow", "wide"), [(3, 7), (7, 3), (5, 5)])
def test_the_projection_is_orthogonal_before_and_after_training_under_autocast(narrow, wide):
    student, teacher = outputs(a=torch.randn(4, narrow, 2, 2)), outputs(b=torch.randn(4, wide, 2, 2))
    loss = built(student, teacher)
    optimizer = torch.optim.AdamW(loss.parameters(), lr=0.1)
    started = loss(student, teacher, torch.zeros(4)).item()
    for _ in range(10):
        weight = loss.projectors[0].net.weight
        gram = weight.T @ weight if wide >= narrow else weight @ weight.T
        torch.testing.assert_close(gram, torch.eye(min(narrow, wide)), atol=1e-5, rtol=0)
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = loss(student, teacher, torch.zeros(4))
        value.backward()
        optimizer.step()
    assert loss(student, teacher, torch.zeros(4)) < started


def test_autocast_changes_nothing():
    student, teacher = outputs(a=torch.randn(4, 3, 8, 8)), outputs(b=torch.randn(4, 7, 4, 4))
    loss = built(student, teacher)
    exact = loss(student, teacher, torch.zeros(4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert loss(student, teacher, torch.zeros(4)) == exact


def test_a_projection_keeps_the_norms_of_a_narrow_student():
    student, teacher = outputs(a=torch.randn(4, 3)), outputs(b=torch.randn(4, 7))
    projected = built(student, teacher).projectors[0](student.features["a"])
    torch.testing.assert_close(projected.norm(dim=1), student.features["a"].norm(dim=1))


@pytest.mark.parametrize("shape", [(3, 4, 4), (16, 3), (18, 3), (3,)])
def test_maps_tokens_and_vectors_are_averaged_without_prefix_tokens(shape):
    x = torch.randn(4, *shape)
    mean = {3: lambda: x.mean((2, 3)), 2: lambda: x[:, -16:].mean(1), 1: lambda: x}[len(shape)]()
    teacher = outputs(b=torch.randn(4, 5, 4, 4))
    loss = built(outputs(a=x), teacher)
    expected = vkd(loss.projectors[0](mean), teacher.features["b"].mean((2, 3)))
    torch.testing.assert_close(loss(outputs(a=x), teacher, torch.zeros(4)), expected)


def test_sum_over_pairs():
    student = outputs(a=torch.randn(4, 3, 8, 8), b=torch.randn(4, 6))
    teacher = outputs(c=torch.randn(4, 5, 8, 8), d=torch.randn(4, 7))
    loss = built(student, teacher)
    whole = loss(student, teacher, torch.zeros(4))
    parts = []
    for i, (s, t) in enumerate((("a", "c"), ("b", "d"))):
        single = VkD(layers={s: t})
        single.projectors = loss.projectors[i : i + 1]
        parts.append(single(student, teacher, torch.zeros(4)))
    torch.testing.assert_close(whole, torch.stack(parts).sum())


def test_the_projection_is_restored_from_a_checkpoint():
    student, teacher = outputs(a=torch.randn(4, 3)), outputs(b=torch.randn(4, 5))
    loss = built(student, teacher)
    other = VkD(layers={"a": "b"})
    other.build(student, teacher)
    assert other(student, teacher, torch.zeros(4)) != loss(student, teacher, torch.zeros(4))
    other.load_state_dict(loss.state_dict())
    assert other(student, teacher, torch.zeros(4)) == loss(student, teacher, torch.zeros(4))


def test_default_layers():
    loss = VkD()
    loss.choose_layers(ConvNet(depth=2), resnet8())
    assert loss.layers == {"blocks.1.relu": "layer3"}
    loss = VkD(teacher="b")
    loss.choose_layers(ConvNet(depth=2), Ensemble({"a": ConvNet(depth=2), "b": resnet8()}))
    assert loss.layers == {"blocks.1.relu": "members.b.layer3"}


def test_messages():
    with pytest.raises(InputError, match="VkD must be built with the outputs of a dry run"):
        VkD(layers={"a": "b"})(outputs(a=torch.zeros(4, 3)), outputs(b=torch.zeros(4, 5)), torch.zeros(4))
    with pytest.raises(InputError, match="features must be of one shape"):
        vkd(torch.zeros(4, 3), torch.zeros(4, 5))
