import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import CWD
from lit_distill.losses.feature import cwd
from lit_distill.losses.logit.kd import kd


def maps(shape=(3, 4, 3, 5)):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True), torch.randn(*shape, dtype=torch.float64)


def test_each_channel_is_a_distribution_over_positions():
    student, teacher = maps()
    expected = 0.0
    for s, t in zip(student.reshape(12, 15), teacher.reshape(12, 15), strict=True):
        p, q = (t / 2).softmax(0), (s / 2).softmax(0)
        expected += 4 * (p * (p / q).log()).sum() / 12
    torch.testing.assert_close(cwd(student, teacher, temperature=2.0), expected)


def test_positions_take_the_place_of_classes_in_kd():
    student, teacher = maps()
    rows = kd(student.flatten(0, 1).flatten(1), teacher.flatten(0, 1).flatten(1), temperature=3.0)
    torch.testing.assert_close(cwd(student, teacher, temperature=3.0), rows)


def test_an_offset_of_a_channel_does_not_matter_but_one_of_a_position_does():
    student, teacher = maps()
    torch.testing.assert_close(cwd(student + torch.randn(3, 4, 1, 1), teacher), cwd(student, teacher))
    assert (cwd(student + 5 * torch.randn(3, 1, 3, 5), teacher) - cwd(student, teacher)).abs() > 1e-2


def test_gradient():
    student, teacher = maps()
    assert gradcheck(lambda s: cwd(s, teacher), student)
    value = cwd(student, student.detach())
    (gradient,) = torch.autograd.grad(value, student)
    assert value.abs() < 1e-15
    assert gradient.abs().max() < 1e-15


def test_at_a_high_temperature_it_compares_centred_maps():
    student, teacher = maps()
    centred = (student - student.mean((2, 3), keepdim=True)) - (teacher - teacher.mean((2, 3), keepdim=True))
    torch.testing.assert_close(cwd(student, teacher, 1e4), centred.square().mean() / 2, rtol=1e-3, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_activations(dtype):
    # the softmax of a channel underflows: its logarithm would be -inf
    student = (1e4 * torch.randn(2, 3, 4, 4)).to(dtype).requires_grad_()
    value = cwd(student, (1e4 * torch.randn(2, 3, 4, 4)).to(dtype))
    value.backward()
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert student.grad.isfinite().all()


def test_pairs_of_other_sizes_and_channels():
    said = {"a": torch.randn(2, 3, 8, 8), "b": torch.randn(2, 17, 5)}
    taught = {"a": torch.randn(2, 6, 4, 4), "b": torch.randn(2, 5, 4, 4)}
    student, teacher = Outputs(torch.zeros(2, 10), said), Outputs(torch.zeros(2, 10), taught)
    loss = CWD(layers={"a": "a", "b": "b"}, temperature=2.0)
    loss.build(student, teacher)
    bridge, same = loss.bridges
    assert [p.shape for p in bridge.parameters()] == [(6, 3, 1, 1), (6,)]
    assert not list(same.parameters())
    smaller = F.adaptive_avg_pool2d(bridge(said["a"]), 4)
    tokens = said["b"][:, 1:].transpose(1, 2).unflatten(2, (4, 4))
    expected = cwd(smaller, taught["a"], 2.0) + cwd(tokens, taught["b"], 2.0)
    torch.testing.assert_close(loss(student, teacher, torch.zeros(2)), expected)


def test_bad_input():
    with pytest.raises(InputError, match=r"maps must be of one shape, got \(2, 3, 4, 4\) and \(2, 5, 4, 4\)"):
        cwd(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 4, 4))
    with pytest.raises(InputError, match="temperature must be positive, got 0"):
        CWD(layers={"a": "a"}, temperature=0)
    outputs = Outputs(torch.zeros(2, 10), {"a": torch.zeros(2, 3, 4, 4)})
    with pytest.raises(InputError, match=r"got no build\(\)"):
        CWD(layers={"a": "a"})(outputs, outputs, torch.zeros(2))
