import numpy as np
import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import PKD
from lit_distill.losses.feature import pkd


def maps(shape=(3, 4, 3, 5)):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True), torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize(("mode", "factor"), [("paper", 1.0), ("code", 44 / 45)])
def test_one_minus_the_correlation_of_each_channel(mode, factor):
    student, teacher = maps()
    correlations = [np.corrcoef(student[:, c].detach().ravel(), teacher[:, c].ravel())[0, 1] for c in range(4)]
    expected = factor * (1 - np.mean(correlations))
    torch.testing.assert_close(pkd(student, teacher, mode).item(), expected, rtol=1e-5, atol=0)


def test_scale_and_offset_of_a_channel_do_not_matter():
    student, teacher = maps()
    scale, offset = 1 + torch.rand(1, 4, 1, 1), torch.randn(1, 4, 1, 1)
    torch.testing.assert_close(pkd(scale * student + offset, teacher), pkd(student, teacher), rtol=1e-5, atol=0)


def test_order_of_samples_and_positions_does_not_matter():
    student, teacher = maps()
    samples, columns = torch.randperm(3), torch.randperm(5)
    shuffled = (x[samples][..., columns] for x in (student, teacher))
    torch.testing.assert_close(pkd(*shuffled), pkd(student, teacher))


def test_gradient():
    student, teacher = maps()
    assert gradcheck(lambda s: pkd(s, teacher), student)
    value = pkd(student, student.detach())
    (gradient,) = torch.autograd.grad(value, student)
    assert value < 1e-15
    assert gradient.abs().max() < 1e-15


def test_a_channel_without_a_response_gets_no_gradient():
    student, teacher = maps()
    silent = student.detach().clone()
    silent[:, 1] = 0
    silent.requires_grad_()
    value = pkd(silent, teacher, "paper")
    (gradient,) = torch.autograd.grad(value, silent)
    others = [0, 2, 3]
    expected = (3 * pkd(student[:, others], teacher[:, others], "paper") + 1 / 2) / 4
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=0)
    assert gradient[:, 1].abs().max() == 0
    assert 0 < gradient.abs().max() < 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_far_from_the_origin_under_autocast(dtype):
    student, teacher = ((100 + torch.randn(4, 3, 8, 8)).to(dtype) for _ in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = pkd(student, teacher)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), pkd(student.double(), teacher.double()), rtol=1e-4, atol=0)


def test_large_activations():
    student = (1e4 * torch.randn(2, 3, 4, 4)).requires_grad_()
    value = pkd(student, 1e4 * torch.randn(2, 3, 4, 4))
    value.backward()
    assert value.isfinite()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("resize", ["student", "teacher"])
@pytest.mark.parametrize(("size", "other"), [((4, 4), (8, 8)), ((8, 6), (4, 6))])
def test_one_of_the_maps_gets_the_size_of_the_other(resize, size, other):
    student = Outputs(torch.zeros(2, 10), {"a": torch.randn(2, 3, *size)})
    teacher = Outputs(torch.zeros(2, 10), {"a": torch.randn(2, 3, *other)})
    loss = PKD(resize=resize, layers={"a": "a"})
    loss.build(student, teacher)
    s, t = student.features["a"], teacher.features["a"]
    if resize == "student":
        s = F.interpolate(s, other, mode="bilinear")
    else:
        t = F.interpolate(t, size, mode="bilinear")
    torch.testing.assert_close(loss(student, teacher, torch.zeros(2)), pkd(s, t))


def test_sum_over_pairs_of_vectors_and_maps():
    student = Outputs(torch.zeros(6, 10), {"a": torch.randn(6, 3, 4, 4), "b": torch.randn(6, 7)})
    teacher = Outputs(torch.zeros(6, 10), {"a": torch.randn(6, 5, 4, 4), "b": torch.randn(6, 7)})
    loss = PKD(mode="paper", layers={"a": "a", "b": "b"})
    loss.build(student, teacher)
    vectors = [x.features["b"][:, :, None, None] for x in (student, teacher)]
    expected = pkd(loss.bridges[0](student.features["a"]), teacher.features["a"], "paper") + pkd(*vectors, "paper")
    torch.testing.assert_close(loss(student, teacher, torch.zeros(6)), expected)


def test_bad_input():
    with pytest.raises(InputError, match="mode must be paper or code, got 'both'"):
        PKD(mode="both")
    with pytest.raises(InputError, match="resize must be student or teacher, got 'both'"):
        PKD(resize="both")
    with pytest.raises(InputError, match=r"must be of more than one value a channel, got \(1, 3, 1, 1\)"):
        pkd(torch.zeros(1, 3, 1, 1), torch.zeros(1, 3, 1, 1))
    with pytest.raises(InputError, match="maps must be of one shape"):
        pkd(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 2, 2))
