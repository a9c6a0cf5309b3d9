"""Terms that bring their gradient: it is the one of their value, whoever asks for it."""

import pytest
import torch
from torch import nn

from lit_distill.core.outputs import Outputs
from lit_distill.losses.known_gradient import in_pieces, with_gradient
from lit_distill.losses.logit import mlld
from lit_distill.losses.logit.kd import kd
from lit_distill.losses.logit.mlld import mlld_levels
from lit_distill.losses.logit.pld import pld

from ..loss_cases import CASES, step

every_case = pytest.mark.parametrize("name", CASES)
WARM = [
    name for name, case in CASES.items() if case.loss and isinstance(getattr(case.loss, "temperature", None), float)
]
# Its weights carry no gradient, which a numerical one cannot know.
WARM.remove("DivergenceKD(AdaptiveKL)")
SHAPES = [(8, 5), (4, 12)]  # more samples than classes, and fewer


def cubes(x, factor):
    return factor * x.pow(3).sum(-1), lambda: 3 * factor * x.square()


def square_rows(x, other):
    return (x.square() * other).sum(-1)


def double(inputs):
    """The inputs of a case in float64, in which a gradient has digits to compare."""
    given = {}
    for name, x in inputs.items():
        if isinstance(x, nn.Module):
            x = x.double()
        elif x.is_floating_point():
            x = x.detach().double().requires_grad_(x.requires_grad)
        given[name] = x
    return given


def asked_of_autograd(value, inputs):
    """Value and gradients by autograd, which is asked because the teacher needs a gradient too."""
    other = next((n for n in ("teacher", "deepest") if n in inputs), None)
    learnt = [x for x in inputs.values() if isinstance(x, torch.Tensor) and x.requires_grad]
    given = inputs | ({other: inputs[other].clone().requires_grad_()} if other else {})
    result = value(**given)
    return result.detach(), torch.autograd.grad(result, learnt)


@every_case
@pytest.mark.parametrize("shape", SHAPES)
def test_the_gradient_is_that_of_the_value(name, shape):
    inputs = double(CASES[name].inputs(*shape))
    value, gradients = step(CASES[name].value, inputs)
    expected, of_autograd = asked_of_autograd(CASES[name].value, inputs)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradients, of_autograd, rtol=1e-7, atol=1e-10)


@every_case
def test_a_gradient_can_be_differentiated(name):
    inputs = double(CASES[name].inputs(4, 5))
    learnt = [x for x in inputs.values() if isinstance(x, torch.Tensor) and x.requires_grad]
    torch.manual_seed(0)
    along = [torch.randn_like(x) for x in learnt]

    def slope(value):
        first = torch.autograd.grad(value, learnt, create_graph=True)
        return sum((a * g).sum() for a, g in zip(along, first, strict=True))

    def second(value):
        return torch.autograd.grad(slope(value), learnt, allow_unused=True, materialize_grads=True)

    teacher = next((n for n in ("teacher", "deepest") if n in inputs), None)
    known = second(CASES[name].value(**inputs))
    if teacher:
        inputs[teacher] = inputs[teacher].clone().requires_grad_()
    torch.testing.assert_close(known, second(CASES[name].value(**inputs)))


@pytest.mark.parametrize("name", WARM)
def test_a_temperature_in_a_tensor(name):
    case = CASES[name]
    inputs, number = double(case.inputs(8, 5)), case.loss.temperature
    value, gradients = step(case.value, inputs)
    try:
        case.loss.temperature = torch.tensor(number, dtype=torch.float64)
        torch.testing.assert_close(step(case.value, inputs), (value, gradients))

        def at(temperature):
            case.loss.temperature = temperature
            return case.value(**inputs)

        assert torch.autograd.gradcheck(at, torch.tensor(number, dtype=torch.float64, requires_grad=True))
        torch.testing.assert_close(step(case.value, inputs), (value, gradients))
    finally:
        case.loss.temperature = number


def test_whoever_asks_gets_the_same():
    torch.manual_seed(0)
    x, y = torch.randn(2, 3, 4, dtype=torch.float64)
    x.requires_grad_()
    given = torch.rand(3, dtype=torch.float64)
    (rows,) = torch.autograd.grad(with_gradient(cubes, x, 2.0), x, given)
    torch.testing.assert_close(rows, 6 * given.unsqueeze(-1) * x.square())
    torch.testing.assert_close(torch.func.grad(lambda x: with_gradient(cubes, x, 2.0).sum())(x), 6 * x.square())
    assert torch.autograd.gradgradcheck(lambda x: with_gradient(cubes, x, 2.0), x)
    factor = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, f: with_gradient(cubes, x, f), (x, factor))
    with torch.no_grad():
        assert not with_gradient(cubes, x, 2.0).requires_grad
    assert not with_gradient(cubes, y, 2.0).requires_grad


def test_a_graph_can_be_kept():
    x = torch.randn(3, 4, requires_grad=True)
    value = with_gradient(cubes, x, 2.0).sum()
    first = torch.autograd.grad(value, x, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(value, x), first)


def test_no_gradient_is_made_that_nobody_needs():
    def costly(x):
        return x.sum(-1), lambda: pytest.fail("a gradient was made")

    x = torch.randn(3, 4)
    with_gradient(costly, x)
    with torch.no_grad():
        with_gradient(costly, x.requires_grad_())


@pytest.mark.parametrize("elements", [1, 8, 12, 10**6])
def test_pieces_make_no_difference(elements):
    torch.manual_seed(0)
    x, y = torch.randn(2, 5, 4, dtype=torch.float64)
    x.requires_grad_()
    value = in_pieces(square_rows, x, y, elements=elements)
    torch.testing.assert_close(value, square_rows(x, y))
    upstream = torch.rand(5, dtype=torch.float64)
    expected = torch.autograd.grad(square_rows(x, y), x, upstream)
    torch.testing.assert_close(torch.autograd.grad(value, x, upstream), expected)
    assert torch.autograd.gradgradcheck(lambda x: in_pieces(square_rows, x, y, elements=elements), x)


def test_pieces_of_nothing():
    empty = torch.empty(0, 4, requires_grad=True)
    assert in_pieces(square_rows, empty, empty.detach()).shape == (0,)


@pytest.mark.parametrize("name", ["KD", "PLD", "WKDL"])
def test_compiled_in_one_graph(name):
    inputs = double(CASES[name].inputs(4, 5))
    expected = step(CASES[name].value, inputs)
    torch.compiler.reset()
    compiled = torch.compile(CASES[name].value, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(step(compiled, inputs), expected)


def test_kd_of_padded_classes():
    """A class ruled out by both networks changes neither value nor gradient."""
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, dtype=torch.float64)
    padding = torch.full((3, 2), -torch.inf, dtype=torch.float64)
    short = student.clone().requires_grad_()
    long = torch.cat([student, padding], 1).requires_grad_()
    values = kd(short, teacher), kd(long, torch.cat([teacher, padding], 1))
    torch.testing.assert_close(*values)
    (expected,), (gradient,) = (torch.autograd.grad(v, x) for v, x in zip(values, (short, long), strict=True))
    torch.testing.assert_close(gradient, torch.cat([expected, torch.zeros_like(padding)], 1))


@pytest.mark.parametrize("spread", [2.0, 300.0])
def test_pld_of_near_and_of_distant_scores(spread):
    """Sums of exponentials do for the first, not for the second."""
    torch.manual_seed(0)
    student, teacher = spread * torch.randn(2, 4, 9, dtype=torch.float64)
    student.requires_grad_()
    target = torch.tensor([0, 3, 8, 1])
    assert ((student.amax(1) - student.amin(1)).max() > 60).item() is (spread > 100)
    inputs = {"student": student, "teacher": teacher, "target": target}
    expected = asked_of_autograd(pld, inputs)
    torch.testing.assert_close(step(pld, inputs), expected)


@pytest.mark.parametrize("mode", ["paper", "code"])
@pytest.mark.parametrize("shape", SHAPES)
def test_mlld_is_the_sum_of_its_levels(mode, shape):
    torch.manual_seed(0)
    views = torch.randn(4, *shape, dtype=torch.float64)
    weak, strong = views[0].requires_grad_(), views[1].requires_grad_()
    given = (weak, strong, views[2], views[3], (4.0, 2.0, 3.0, 1.0), mode)
    whole, levels = mlld(*given), sum(mlld_levels(*given))
    torch.testing.assert_close(whole, levels)
    torch.testing.assert_close(*(torch.autograd.grad(x, (weak, strong)) for x in (whole, levels)))


def test_terms_without_gradients():
    """In validation a term is asked for its value alone."""
    outputs = Outputs(torch.randn(4, 5))
    with torch.no_grad():
        for name in ("KD", "DKD", "DIST"):
            assert CASES[name].loss(outputs, outputs, torch.tensor([0, 1, 2, 3])).isfinite()
