import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import OFD
from lit_distill.losses.feature import margins, ofd
from lit_distill.losses.feature.ofd import SCALE


def norms(*channels):
    torch.manual_seed(0)
    network = nn.ModuleDict({f"n{i}": nn.BatchNorm2d(c) for i, c in enumerate(channels)})
    for norm in network.values():
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return network


def built(student, teacher, network):
    torch.manual_seed(0)
    loss = OFD(norms=list(network), layers=dict(zip(student.features, teacher.features, strict=True)))
    loss.attach(nn.Identity(), network)
    loss.build(student, teacher)
    return loss


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (-1.0, 0.0), (0.5, 1.0), (2.0, -3.0), (0.1, -5.0)])
def test_margin_is_the_mean_of_the_negative_values(scale, shift):
    x = torch.linspace(-30, 0, 300_001, dtype=torch.float64)
    density = (-((x - shift) / scale).square() / 2).exp()
    expected = (x * density).sum() / density.sum()
    given = margins(torch.tensor([scale], dtype=torch.float64), torch.tensor([shift], dtype=torch.float64))
    torch.testing.assert_close(given, expected[None], rtol=1e-3, atol=0)


def test_margin_where_hardly_anything_is_negative():
    scale, shift = torch.tensor([1.0, -2.0, 0.0, 1.0]), torch.tensor([3.1, 1e4, 1.0, 3.0])
    given = margins(scale, shift)
    torch.testing.assert_close(given[:3], torch.tensor([-3.0, -6.0, 0.0]))
    assert -1 < given[3] < 0  # a little more than a thousandth is


def test_margin_of_a_channel_that_does_not_vary():
    torch.testing.assert_close(margins(torch.zeros(2), torch.tensor([-1.5, 0.0])), torch.tensor([-1.5, 0.0]))


def test_nothing_is_asked_below_the_margin():
    student, teacher = torch.randn(2, 4, 3, 5, 5, dtype=torch.float64)
    student.requires_grad_()
    margin = torch.tensor([-0.1, -0.5, -1.0], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(ofd(student, teacher, margin), student)
    target = torch.maximum(teacher, margin.view(3, 1, 1))
    free = (teacher <= 0) & (student <= target)
    assert free.any()
    assert (gradient[free] == 0).all()
    torch.testing.assert_close(gradient[~free], (2 * (student - target) / 4)[~free])
    assert ofd(target, teacher, margin) == 0


def test_gradcheck():
    student, teacher = torch.randn(2, 2, 3, 4, 4, dtype=torch.float64)
    margin = torch.tensor([-0.1, -0.5, -1.0], dtype=torch.float64)
    assert gradcheck(lambda s: ofd(s, teacher, margin), student.requires_grad_())


def test_a_mean_over_samples_and_a_sum_within():
    student, teacher = torch.randn(2, 4, 3, 5, 5)
    margin = torch.full((3,), -0.5)
    each = torch.stack([ofd(s, t, margin) for s, t in zip(student.split(1), teacher.split(1), strict=True)])
    torch.testing.assert_close(ofd(student, teacher, margin), each.mean())
    torch.testing.assert_close(ofd(student.repeat(1, 1, 2, 1), teacher.repeat(1, 1, 2, 1), margin), 2 * each.mean())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_maps(dtype):
    student, teacher = (1e4 * torch.randn(2, 4, 3, 5, 5)).to(dtype)
    student.requires_grad_()
    value = ofd(student, teacher, torch.full((3,), -0.5))
    (gradient,) = torch.autograd.grad(value, student)
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert gradient.isfinite().all()


def test_deeper_pairs_count_twice_as_much():
    student = Outputs(torch.zeros(4, 10), {f"s{i}": torch.randn(4, 3, 4, 4) for i in range(3)})
    teacher = Outputs(torch.zeros(4, 10), {f"t{i}": torch.randn(4, 2 + i, 4, 4) for i in range(3)})
    network = norms(2, 3, 4)
    loss = built(student, teacher, network)
    expected = 0
    pairs = zip(loss.connectors, network.values(), loss.pairs(student, teacher), (0.25, 0.5, 1.0), strict=True)
    for connector, norm, (s, t), share in pairs:
        expected = expected + share * ofd(connector(s), t, margins(norm.weight.detach(), norm.bias.detach()))
    torch.testing.assert_close(loss(student, teacher, torch.zeros(4)), SCALE * expected)


def test_margins_are_in_no_checkpoint():
    student, teacher = (Outputs(torch.zeros(4, 10), {"a": torch.randn(4, 3, 4, 4)}) for _ in range(2))
    names = set(built(student, teacher, norms(3)).state_dict())
    assert names
    assert all(name.startswith("connectors.0.projector") for name in names)


def test_messages():
    student, teacher = (Outputs(torch.zeros(4, 10), {"a": torch.randn(4, 3, 4, 4)}) for _ in range(2))
    with pytest.raises(InputError, match=r"norms must be 1 paths, one a pair, got \['n0', 'n1'\]"):
        built(student, teacher, norms(3, 3)).attach(nn.Identity(), norms(3))
    with pytest.raises(InputError, match="norms must be one of 3 channels for a, got one of 5 channels"):
        built(student, teacher, norms(5))
    with pytest.raises(InputError, match="norms: a BatchNorm2d without scale and shift found for a of the teacher"):
        OFD(layers={"a": "a"}).attach(nn.Identity(), nn.ModuleDict({"a": nn.BatchNorm2d(3, affine=False)}))
    with pytest.raises(InputError, match="norms: none found for b of the teacher; accepted are paths of its BatchNorm"):
        OFD(layers={"a": "b"}).attach(nn.Identity(), nn.ModuleDict({"b": nn.ReLU()}))
    with pytest.raises(InputError, match="no submodule 'n1'; close: n0"):
        OFD(layers={"a": "b"}, norms=["n1"]).attach(nn.Identity(), norms(3))
    with pytest.raises(InputError, match="OFD must meet the two networks before it is built"):
        OFD(layers={"a": "a"}).build(student, teacher)
    with pytest.raises(InputError, match="maps must be of one shape"):
        ofd(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 5), torch.ones(3))
