import math

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import SRD
from lit_distill.losses.feature import srd
from lit_distill.models import ConvNet, resnet8


def outputs(**features):
    return Outputs(torch.zeros(4, 10), features)


def built(student, teacher, **given):
    torch.manual_seed(0)
    loss = SRD(layers=dict(zip(student.features, teacher.features, strict=True)), **given)
    loss.build(student, teacher)
    return loss


@pytest.mark.parametrize(("exponent", "eps"), [(4.0, 1e-4), (1.0, 1e-5), (2.5, 0.1)])
def test_batch_normalisation_by_torch(exponent, eps):
    student, teacher = 3 + torch.randn(2, 6, 5)
    x, q = (F.batch_norm(y, None, None, training=True, eps=eps) for y in (student, teacher))
    expected = (x - q).abs().pow(exponent).sum().log()
    torch.testing.assert_close(srd(student, teacher, exponent, eps), expected)


def test_gradcheck():
    student, teacher = torch.randn(2, 4, 5, dtype=torch.float64)
    assert gradcheck(lambda s: srd(s, teacher), student.requires_grad_())


def test_scale_and_offset_of_every_channel_do_not_matter():
    student, teacher = torch.randn(2, 6, 5, dtype=torch.float64)
    scale, offset = torch.rand(5) + 0.5, torch.randn(5)
    moved = srd(scale * student + offset, 3 * teacher - offset, eps=1e-12)
    torch.testing.assert_close(moved, srd(student, teacher, eps=1e-12))


def test_a_batch_seen_twice_only_shifts_the_value():
    student, teacher = torch.randn(2, 6, 5, dtype=torch.float64)
    twice = srd(*(torch.cat([x, x]) for x in (student, teacher)))
    torch.testing.assert_close(twice, srd(student, teacher) + math.log(2))


def test_the_gradient_does_not_fade_with_the_gaps():
    teacher = torch.randn(64, 5, dtype=torch.float64)
    direction = torch.randn(64, 5, dtype=torch.float64)
    norms = []
    for size in (1e-2, 1e-4):
        student = (teacher + size * direction).requires_grad_()
        (gradient,) = torch.autograd.grad(srd(student, teacher), student)
        norms.append(gradient.norm())
    torch.testing.assert_close(norms[1], 100 * norms[0], rtol=0.1, atol=0)


@pytest.mark.parametrize("batch", [1, 4])
def test_finite_where_student_and_teacher_agree(batch):
    student = torch.randn(batch, 5, requires_grad=True)
    value = srd(student, student.detach())
    (gradient,) = torch.autograd.grad(value, student)
    assert value == math.log(torch.finfo(torch.float32).tiny)
    assert gradient.abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_and_collapsed_features(dtype):
    student = (1e4 * torch.randn(6, 5)).to(dtype)
    student[:, 0] = 1e4
    student.requires_grad_()
    value = srd(student, (1e4 * torch.randn(6, 5)).to(dtype))
    (gradient,) = torch.autograd.grad(value, student)
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert gradient.isfinite().all()


def test_autocast_changes_nothing():
    student, teacher = outputs(a=torch.randn(4, 3, 8, 8)), outputs(b=torch.randn(4, 7, 4, 4))
    loss = built(student, teacher)
    exact = loss(student, teacher, torch.zeros(4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert loss(student, teacher, torch.zeros(4)) == exact


@pytest.mark.parametrize("shape", [(3, 4, 4), (16, 3), (18, 3), (3,)])
def test_maps_tokens_and_vectors_are_averaged_without_prefix_tokens(shape):
    x = torch.randn(4, *shape)
    mean = {3: lambda: x.mean((2, 3)), 2: lambda: x[:, -16:].mean(1), 1: lambda: x}[len(shape)]()
    teacher = outputs(b=torch.randn(4, 5, 4, 4))
    loss = built(outputs(a=x), teacher, exponent=2.0, eps=1e-3)
    expected = srd(loss.projector(mean), teacher.features["b"].mean((2, 3)), 2.0, 1e-3)
    torch.testing.assert_close(loss(outputs(a=x), teacher, torch.zeros(4)), expected)


def test_the_projector_is_trained_and_saved():
    student, teacher = outputs(a=torch.randn(4, 3)), outputs(b=torch.randn(4, 5))
    loss = built(student, teacher)
    loss(student, teacher, torch.zeros(4)).backward()
    assert loss.projector.net.weight.grad.abs().max() > 0
    assert set(loss.state_dict()) == {"projector.net.weight", "projector.net.bias"}


def test_default_layers():
    loss = SRD()
    loss.choose_layers(ConvNet(depth=2), resnet8())
    assert loss.layers == {"blocks.1.relu": "layer3"}


def test_messages():
    with pytest.raises(InputError, match=r"exponent must be at least 1, got 0\.5"):
        SRD(exponent=0.5)
    with pytest.raises(InputError, match="eps must be positive, got 0"):
        SRD(eps=0)
    with pytest.raises(InputError, match=r"layers must be one pair {student path: teacher path}, got {'a': 'b', 'c'"):
        SRD(layers={"a": "b", "c": "d"})
    with pytest.raises(InputError, match="SRD must be built with the outputs of a dry run"):
        SRD(layers={"a": "b"})(outputs(a=torch.zeros(4, 3)), outputs(b=torch.zeros(4, 5)), torch.zeros(4))
    with pytest.raises(InputError, match="features must be of one shape"):
        srd(torch.zeros(4, 3), torch.zeros(4, 5))
