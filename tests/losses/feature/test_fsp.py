import pytest
import torch
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.core.projectors import LinearProjector
from lit_distill.errors import InputError
from lit_distill.losses import FSP
from lit_distill.losses.feature import flow, fsp


def outputs(*shapes):
    return Outputs(torch.zeros(4, 10), {f"l{i}": torch.rand(4, *shape) for i, shape in enumerate(shapes)})


THREE = {f"l{i}": f"l{i}" for i in range(3)}


@pytest.mark.parametrize("sizes", [((8, 8), (4, 4)), ((4, 4), (8, 8)), ((4, 4), (4, 4))])
def test_flow_by_hand(sizes):
    bottom, top = torch.randn(4, 3, *sizes[0]), torch.randn(4, 5, *sizes[1])
    given = flow(bottom, top)
    small = [F.adaptive_avg_pool2d(x, 4) for x in (bottom, top)]
    assert given.shape == (4, 3, 5)
    torch.testing.assert_close(given[:, 2, 1], (small[0][:, 2] * small[1][:, 1]).mean((1, 2)))


def test_flow_sees_no_place():
    bottom, top = torch.randn(4, 3, 4, 4), torch.randn(4, 5, 4, 4)
    moved = [x.roll((1, 2), (2, 3)) for x in (bottom, top)]
    torch.testing.assert_close(flow(*moved), flow(bottom, top))


def test_steps_and_modes():
    student = [torch.rand(4, c, 4, 4) for c in (2, 3, 5)]
    teacher = [torch.rand(4, c, 8, 8) for c in (2, 3, 5)]
    differences = [flow(student[i], student[i + 1]) - flow(teacher[i], teacher[i + 1]) for i in range(2)]
    torch.testing.assert_close(fsp(student, teacher), sum(d.square().mean() for d in differences))
    paper = sum((d.norm(dim=(1, 2)) ** 2).mean() for d in differences)
    torch.testing.assert_close(fsp(student, teacher, mode="paper"), paper)


def test_scaled_networks():
    student, teacher = ([torch.rand(4, c, 4, 4) for c in (2, 3, 5)] for _ in range(2))
    torch.testing.assert_close(fsp([3 * x for x in student], [3 * x for x in teacher]), 81 * fsp(student, teacher))


def test_the_loss_is_the_function_of_its_layers_in_their_order():
    student, teacher = outputs((2, 8, 8), (3, 4, 4), (5, 2, 2)), outputs((2, 4, 4), (3, 4, 4), (5, 4, 4))
    loss = FSP(layers=THREE, mode="paper")
    loss.build(student, teacher)
    assert not list(loss.parameters())
    expected = fsp([*student.features.values()], [*teacher.features.values()], "paper")
    torch.testing.assert_close(loss(student, teacher, torch.zeros(4)), expected)


def test_each_layer_has_a_projector_of_its_own():
    student, teacher = outputs((2, 8, 8), (2, 4, 4), (2, 2, 2)), outputs((2, 8, 8), (3, 4, 4), (5, 2, 2))
    loss = FSP(layers=THREE, projector=LinearProjector())
    assert not list(loss.parameters())
    loss.build(student, teacher)
    assert [bridge.net.weight.shape[:2] for bridge in loss.bridges] == [(2, 2), (3, 2), (5, 2)]
    value = loss(student, teacher, torch.zeros(4))
    bridged = [bridge(x) for bridge, x in zip(loss.bridges, student.features.values(), strict=True)]
    torch.testing.assert_close(value, fsp(bridged, [*teacher.features.values()]))
    assert all(gradient.abs().max() > 0 for gradient in torch.autograd.grad(value, list(loss.parameters())))


def test_messages():
    one = r"layers must be at least 2 pairs, from one of which to the next something flows, got 1$"
    with pytest.raises(InputError, match=one):
        fsp([torch.rand(4, 2, 4, 4)], [torch.rand(4, 2, 4, 4)])
    with pytest.raises(InputError, match=one):
        FSP(layers={"l0": "l0"}, projector=LinearProjector()).build(outputs((2, 4, 4)), outputs((3, 4, 4)))
    student, teacher = outputs((2, 8, 8), (2, 4, 4)), outputs((2, 8, 8), (3, 4, 4))
    loss = FSP(layers={"l0": "l0", "l1": "l1"})
    with pytest.raises(InputError, match=r"same numbers of channels .* projector: .*, got \[2, 2\] and \[2, 3\]$"):
        loss.build(student, teacher)
    with pytest.raises(InputError, match="FSP must be built"):
        FSP(layers={"l0": "l0", "l1": "l1"}, projector=LinearProjector())(student, teacher, torch.zeros(4))
    with pytest.raises(InputError, match="mode must be paper or code, got 'both'"):
        FSP(layers={"l0": "l0", "l1": "l1"}, mode="both")
    with pytest.raises(InputError, match=r"must be maps \(B, C, H, W\) of the same samples, got"):
        fsp([torch.rand(4, 2, 4, 4), torch.rand(3, 2, 4, 4)], [torch.rand(4, 2, 4, 4)] * 2)
