import pytest
import torch
from torch import nn

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import FitNet
from lit_distill.losses.feature.fitnet import ConvRegressor, fitnet


def outputs(**features):
    generator = torch.Generator().manual_seed(0)
    return Outputs(
        torch.zeros(4, 10), {name: torch.randn(4, *shape, generator=generator) for name, shape in features.items()}
    )


@pytest.mark.parametrize(
    ("student", "teacher", "kind", "size"),
    [
        ((3, 8, 8), (5, 4, 4), nn.Conv2d, (3, 3)),
        ((3, 4, 6), (5, 8, 12), nn.ConvTranspose2d, (4, 4)),
        ((3, 8, 8), (5, 8, 8), nn.Conv2d, (1, 1)),
        ((3, 8, 9), (5, 6, 8), nn.Conv2d, (3, 2)),
    ],
)
def test_regressor_of_two_shapes(student, teacher, kind, size):
    regressor = ConvRegressor(student, teacher)
    assert type(regressor.conv) is kind
    assert regressor.conv.kernel_size == size
    y = regressor(torch.randn(4, *student))
    assert y.shape == (4, *teacher)
    assert (y >= 0).all()


def test_no_regressor_enlarges_by_any_other_factor():
    with pytest.raises(InputError, match=r"got \(C, H, W\) = \(3, 4, 4\) and \(5, 6, 6\)"):
        ConvRegressor((3, 4, 4), (5, 6, 6))


def test_sum_over_pairs_of_layers():
    student = outputs(a=(3, 8, 8), b=(6, 4, 4))
    teacher = outputs(c=(5, 4, 4), d=(7, 4, 4))
    loss = FitNet(layers={"a": "c", "b": "d"})
    loss.build(student, teacher)
    value = loss(student, teacher, torch.zeros(4))
    first, second = loss.regressors
    terms = [
        fitnet(first(student.features["a"]), teacher.features["c"]),
        fitnet(second(student.features["b"]), teacher.features["d"]),
    ]
    torch.testing.assert_close(value, sum(terms))


def test_parameters_exist_after_build_and_learn():
    student, teacher = outputs(a=(3, 8, 8)), outputs(c=(5, 4, 4))
    loss = FitNet(layers={"a": "c"})
    assert not list(loss.parameters())
    loss.build(student, teacher)
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.1)
    values = []
    for _ in range(20):
        optimizer.zero_grad()
        value = loss(student, teacher, torch.zeros(4))
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.95 * values[0]


@pytest.mark.parametrize(("dtype", "wanted"), [(torch.float64, torch.float64), (torch.bfloat16, torch.float32)])
def test_parameters_are_as_precise_as_the_maps_but_never_half(dtype, wanted):
    student, teacher = (Outputs(torch.zeros(2, 10), {"a": torch.zeros(2, 3, 4, 4, dtype=dtype)}) for _ in range(2))
    loss = FitNet(layers={"a": "a"})
    loss.build(student, teacher)
    assert {p.dtype for p in loss.parameters()} == {wanted}


def test_autocast_is_close():
    student, teacher = outputs(a=(3, 8, 8)), outputs(c=(5, 4, 4))
    loss = FitNet(layers={"a": "c"})
    loss.build(student, teacher)
    exact = loss(student, teacher, torch.zeros(4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        given = loss(student, teacher, torch.zeros(4))
    assert given.dtype == torch.float32
    torch.testing.assert_close(given, exact, rtol=1e-2, atol=0)


def test_messages():
    loss = FitNet(layers={"a": "c"})
    with pytest.raises(InputError, match="FitNet must be built"):
        loss(outputs(a=(3, 8, 8)), outputs(c=(5, 4, 4)), torch.zeros(4))
    with pytest.raises(InputError, match=r"layers must name maps .* got a \(4, 3\) and c \(4, 5, 4, 4\)"):
        loss.build(outputs(a=(3,)), outputs(c=(5, 4, 4)))
    with pytest.raises(InputError, match="maps must be of one shape"):
        fitnet(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 5))
