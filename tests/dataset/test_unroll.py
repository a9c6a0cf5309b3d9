from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lit_distill.dataset.unroll import Stateless, batches_of, unroll
from lit_distill.errors import InputError
from lit_distill.models import MLP, CondensationConvNet

from ..live_memory import peak_bytes

EXACT = ("full", "recompute")


def case(steps, route, momentum=0.0, at=None, dtype=torch.float64, width=4, side=8, one_size=True):
    """What a short training ends with, and what it began with."""
    torch.manual_seed(0)
    network = Stateless(CondensationConvNet((1, side, side), 3, width, 2).to(dtype))
    x = torch.randn(6, 1, side, side, dtype=dtype, requires_grad=True)
    y = torch.randn(6, 3, dtype=dtype, requires_grad=True)
    sizes = torch.full((1 if one_size else steps,), 0.1, dtype=dtype, requires_grad=True)
    start = network.flat().requires_grad_()
    batches = batches_of(6, 4, steps, torch.Generator().manual_seed(0))

    def loss(weights, images, labels, i):
        return cross_entropy(network(weights, images), labels.softmax(1))

    inputs = (x, y, sizes, start)
    return unroll(loss, start, x, y, sizes, batches, momentum, route, at), inputs


def gradients(*args, **kwargs):
    end, inputs = case(*args, **kwargs)
    factors = torch.linspace(-1, 1, end.numel(), dtype=end.dtype).view_as(end)
    return torch.autograd.grad((end.square() * factors).sum() * 100, inputs)


def error(found, expected):
    return max(((a - b).norm() / b.norm()).item() for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("one_size", [True, False])
@pytest.mark.parametrize(("momentum", "at"), [(0.0, None), (0.9, None), (0.0, (2, 5)), (0.9, (1, 4, 5))])
def test_recomputing_is_exact(momentum, at, one_size):
    given = {"momentum": momentum, "at": at, "one_size": one_size}
    assert error(gradients(5, "recompute", **given), gradients(5, "full", **given)) < 1e-12


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_fifty_steps_are_exact_too(momentum):
    assert error(gradients(50, "recompute", momentum), gradients(50, "full", momentum)) < 1e-6


def test_all_routes_end_at_the_same_weights():
    full, *others = (case(7, route, momentum=0.5)[0] for route in (*EXACT, "tesla"))
    for other in others:
        torch.testing.assert_close(other, full, rtol=0, atol=1e-14)


def test_it_is_sgd():
    end, (x, y, sizes, start) = case(6, "recompute", momentum=0.9)
    network = CondensationConvNet((1, 8, 8), 3, 4, 2).double()
    nn.utils.vector_to_parameters(start.detach(), network.parameters())
    optimizer = torch.optim.SGD(network.parameters(), lr=float(sizes.detach()), momentum=0.9)
    for rows in batches_of(6, 4, 6, torch.Generator().manual_seed(0)):
        optimizer.zero_grad()
        cross_entropy(network(x.detach()[rows]), y.detach()[rows].softmax(1)).backward()
        optimizer.step()
    torch.testing.assert_close(end, nn.utils.parameters_to_vector(network.parameters()))


def test_tesla_is_exact_for_one_step_alone():
    # the first weights' own gradient is not part of the method
    assert error(gradients(1, "tesla")[:3], gradients(1, "full")[:3]) < 1e-12
    images = [gradients(steps, "tesla")[0] for steps in (2, 8)]
    exact = [gradients(steps, "full")[0] for steps in (2, 8)]
    errors = [error([a], [b]) for a, b in zip(images, exact, strict=True)]
    assert 1e-3 < errors[0] < errors[1]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("route", EXACT)
def test_finite_differences(route, momentum):
    network = Stateless(MLP(input_shape=(3,), hidden=[2], num_classes=2).double())
    batches = [torch.tensor([0, 1]), torch.tensor([1, 2]), torch.tensor([0])]

    def loss(weights, images, labels, i):
        return cross_entropy(network(weights, images).tanh(), labels.softmax(1))

    def end(x, y, sizes):
        return unroll(loss, network.flat() + 0.1, x, y, sizes, batches, momentum, route)

    shapes = ((3, 3), (3, 2))
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    sizes = torch.tensor([0.5, 0.3, 0.4], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(end, (*inputs, sizes))


def memory(steps, route):
    def run():
        end, inputs = case(steps, route, dtype=torch.float32, width=8, side=16)
        return torch.autograd.grad(end.sum(), inputs)

    return peak_bytes(run)


def test_memory_does_not_grow_but_for_the_weights():
    weights = case(1, "full", dtype=torch.float32, width=8, side=16)[0].numel() * 4
    few, many = (memory(steps, "recompute") for steps in (10, 50))
    assert many - few <= 40 * weights * 1.01
    assert memory(50, "full") > 10 * many


def test_what_needs_no_gradient_gets_none():
    network = Stateless(MLP(input_shape=(3,), hidden=[2], num_classes=2))
    x, sizes = torch.randn(4, 3, requires_grad=True), torch.tensor([0.1])

    def loss(weights, images, labels, i):
        return cross_entropy(network(weights, images), labels)

    for route in (*EXACT, "tesla"):
        end = unroll(loss, network.flat(), x, torch.tensor([0, 1, 0, 1]), sizes, [torch.arange(4)] * 3, route=route)
        assert torch.autograd.grad(end.sum(), x)[0].abs().sum() > 0


def test_mixed_precision_changes_nothing():
    plain = gradients(4, "recompute", dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        end, inputs = case(4, "recompute", dtype=torch.float32)
    assert end.dtype == torch.float32
    factors = torch.linspace(-1, 1, end.numel())
    assert error(torch.autograd.grad((end.square() * factors).sum() * 100, inputs), plain) < 1e-5


def test_a_batch_that_is_left_over_comes_first():
    batches = batches_of(7, 3, 5, torch.Generator().manual_seed(1))
    assert [len(rows) for rows in batches] == [1, 3, 3, 1, 3]
    assert sorted(torch.cat(batches[:3]).tolist()) == list(range(7))
    assert [len(rows) for rows in batches_of(7, None, 2, torch.Generator())] == [7, 7]


class Dropping(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(2, 2), nn.Dropout(0.1))


@pytest.mark.parametrize(
    ("build", "named"),
    [(partial(CondensationConvNet, norm="batch"), r"blocks\.0\.norm \(BatchNorm2d\)"), (Dropping, r"1 \(Dropout\)")],
)
def test_networks_that_are_more_than_weights(build, named):
    with pytest.raises(InputError, match=f"network: {named} is no function of weights alone; accepted are"):
        Stateless(build())


def test_wrong_input():
    with pytest.raises(InputError, match="route: 'fast' given; accepted are full, recompute, tesla"):
        case(2, "fast")
    sizes = torch.ones(3)
    with pytest.raises(InputError, match="step_size must be one number or 2, one a step, not 3"):
        unroll(None, torch.zeros(1), torch.zeros(1), torch.zeros(1), sizes, [torch.tensor([0])] * 2)
