import math

import pytest
import torch
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import CC
from lit_distill.losses.relational import cc_adjacent, cc_gaussian


def outputs(feature):
    return Outputs(torch.zeros(len(feature), 10), {"layer": feature})


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("gamma", [0.1, 0.4, 2.0])
def test_taylor_series_by_hand(gamma, order):
    student, teacher = torch.randn(6, 3).double(), torch.randn(6, 4).double()

    def kernel(x):
        cosines = F.normalize(x) @ F.normalize(x).T
        powers = [(2 * gamma) ** p / math.factorial(p) * cosines**p for p in range(order + 1)]
        return math.exp(-2 * gamma) * sum(powers)

    expected = (kernel(student) - kernel(teacher)).square().mean()
    torch.testing.assert_close(cc_gaussian(student, teacher, gamma, order), expected)


def test_of_high_order_it_is_the_gaussian_kernel():
    student, teacher = torch.randn(6, 3).double(), torch.randn(6, 4).double()
    s, t = (torch.exp(-0.4 * torch.cdist(F.normalize(x), F.normalize(x)).square()) for x in (student, teacher))
    torch.testing.assert_close(cc_gaussian(student, teacher, 0.4, 30), (s - t).square().mean())


def test_products_of_neighbours_by_hand():
    student, teacher = torch.randn(4, 3), torch.randn(4, 3)
    d = (student - teacher).abs()
    torch.testing.assert_close(cc_adjacent(student, teacher), (d[0] @ d[1] + d[1] @ d[2] + d[2] @ d[3]) / 3)
    student[::2] = teacher[::2]
    assert cc_adjacent(student, teacher) == 0  # though every second sample differs


def test_mode_code_has_a_linear_map_for_either_network():
    student, teacher = outputs(torch.randn(4, 3, 2, 2)), outputs(torch.randn(4, 7))
    loss = CC(mode="code", embedding=16, layers={"layer": "layer"})
    assert not list(loss.parameters())
    loss.build(student, teacher)
    maps = loss.embeds_student[0], loss.embeds_teacher[0]
    assert [m.net.weight.shape for m in maps] == [(16, 3), (16, 7)]
    value = loss(student, teacher, torch.zeros(4))
    expected = cc_adjacent(maps[0](student.features["layer"].mean((2, 3))), maps[1](teacher.features["layer"]))
    torch.testing.assert_close(value, expected)
    assert all(g.abs().max() > 0 for g in torch.autograd.grad(value, list(loss.parameters())))


def test_mode_paper_builds_nothing():
    student, teacher = outputs(torch.randn(4, 3)), outputs(torch.randn(4, 7))
    loss = CC(gamma=0.3, order=3, layers={"layer": "layer"})
    loss.build(student, teacher)
    assert not list(loss.parameters())
    expected = cc_gaussian(student.features["layer"], teacher.features["layer"], 0.3, 3)
    assert loss(student, teacher, torch.zeros(4)) == expected


def test_mode_code_under_autocast():
    torch.manual_seed(0)
    student, teacher = outputs(torch.randn(8, 3, 2, 2)), outputs(torch.randn(8, 7))
    loss = CC(mode="code", layers={"layer": "layer"})
    loss.build(student, teacher)
    exact = loss(student, teacher, torch.zeros(8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        given = loss(student, teacher, torch.zeros(8))
    assert given.dtype == torch.float32
    torch.testing.assert_close(given, exact, rtol=1e-2, atol=0)


def test_messages():
    for name, value in {"mode": "both", "gamma": 0.0, "order": 0, "embedding": 0}.items():
        with pytest.raises(InputError, match=f"^{name} must be .*, got {value!r}$"):
            CC(layers={"layer": "layer"}, **{name: value})
    with pytest.raises(InputError, match="CC must be built"):
        CC(mode="code", layers={"layer": "layer"})(outputs(torch.zeros(4, 3)), outputs(torch.zeros(4, 3)), None)
    with pytest.raises(InputError, match=r"embeddings must be of one shape, got \(4, 3\) and \(4, 5\)"):
        cc_adjacent(torch.zeros(4, 3), torch.zeros(4, 5))
