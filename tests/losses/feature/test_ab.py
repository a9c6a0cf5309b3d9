import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import AB
from lit_distill.losses.feature import ab
from lit_distill.losses.feature.ab import SCALE


def test_each_neuron_by_hand():
    student = torch.tensor([[-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0]])
    active = torch.tensor([[9.0, 4.0, 2.25, 1.0, 0.25, 0.0, 0.0]])
    for i in range(7):
        one = student[:, i : i + 1]
        torch.testing.assert_close(ab(one, torch.tensor([[0.1]])), active[0, i])
        torch.testing.assert_close(ab(one, torch.tensor([[-0.1]])), active[0, 6 - i])
        torch.testing.assert_close(ab(one, torch.tensor([[0.0]])), active[0, 6 - i])
    torch.testing.assert_close(ab(student, torch.ones(1, 7)), active.sum())


def test_only_the_side_counts():
    student, teacher = torch.randn(2, 4, 3, 5, 5)
    sizes = torch.rand_like(teacher) + 0.1
    torch.testing.assert_close(ab(student, sizes * teacher), ab(student, teacher), rtol=0, atol=0)
    assert ab(5 * teacher.sign(), teacher, margin=5.0) == 0
    assert ab(-student, -teacher) == ab(student, teacher) > 1


def test_margin_is_a_unit():
    student, teacher = torch.randn(2, 4, 3, 5, 5)
    torch.testing.assert_close(ab(3 * student, teacher, margin=3.0), 9 * ab(student, teacher))


def test_gradcheck():
    student, teacher = torch.randn(2, 2, 3, 4, 4, dtype=torch.float64)
    assert gradcheck(lambda s: ab(s, teacher), student.requires_grad_())


def test_a_mean_over_samples():
    student, teacher = torch.randn(2, 4, 3, 5, 5)
    each = torch.stack([ab(s, t) for s, t in zip(student.split(1), teacher.split(1), strict=True)])
    torch.testing.assert_close(ab(student, teacher), each.mean())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_maps(dtype):
    student, teacher = (1e4 * torch.randn(2, 4, 3, 5, 5)).to(dtype)
    student.requires_grad_()
    value = ab(student, teacher)
    (gradient,) = torch.autograd.grad(value, student)
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert gradient.isfinite().all()


def test_deeper_pairs_count_twice_as_much():
    student = Outputs(torch.zeros(4, 10), {f"s{i}": torch.randn(4, 3, 4, 4) for i in range(3)})
    teacher = Outputs(torch.zeros(4, 10), {f"t{i}": torch.randn(4, 2 + i, 4, 4) for i in range(3)})
    loss = AB(margin=0.5, layers=dict(zip(student.features, teacher.features, strict=True)))
    loss.build(student, teacher)
    pairs = zip(loss.connectors, loss.pairs(student, teacher), (0.25, 0.5, 1.0), strict=True)
    expected = sum(share * ab(connector(s), t, 0.5) for connector, (s, t), share in pairs)
    torch.testing.assert_close(loss(student, teacher, torch.zeros(4)), SCALE * expected)


def test_a_connector_has_no_activation_at_its_end():
    student, teacher = (Outputs(torch.zeros(4, 10), {"a": torch.randn(4, 3, 4, 4)}) for _ in range(2))
    loss = AB(layers={"a": "a"})
    loss.build(student, teacher)
    assert [type(layer) for layer in loss.connectors[0].net] == [nn.Conv2d, nn.BatchNorm2d]
    assert (loss.connectors[0](student.features["a"]) < 0).any()


def test_messages():
    with pytest.raises(InputError, match="margin must be 0 or positive, got -1"):
        AB(layers={"a": "a"}, margin=-1.0)
    with pytest.raises(InputError, match="maps must be of one shape"):
        ab(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 5))
