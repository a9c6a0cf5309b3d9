import math

import pytest
import torch

from lit_distill.errors import InputError
from lit_distill.losses import DTS
from lit_distill.losses.modifiers import dynamic_temperature, loss_gap

from .common import both, call, dts, kd


def step(gap, progress=0.0, **kwargs):
    return dynamic_temperature(torch.tensor(4.0), torch.tensor(gap), progress, momentum=0.0, **kwargs).item()


def test_it_falls_along_a_cosine_between_its_bounds():
    values = [step(0.0, p / 10, initial=10.0, lowest=1.0, highest=9.0) for p in range(11)]
    assert values == sorted(values, reverse=True)
    assert values[0] == 9
    assert values[-1] == 1
    assert values[5] == pytest.approx(5)


@pytest.mark.parametrize(
    ("gap", "factor"),
    [
        (5.0, 1),
        (0.0, 1),
        (-0.99, 1),
        (-1.0, 1),
        (-1.01, 1.35),
        (-1.9, 1.35),
        (-2.1, 2.1 / 1.1),
        (-11.0, 1.1),
        (-1e4, 1),
    ],
)
def test_only_a_student_that_lags_far_behind_raises_it(gap, factor):
    assert step(gap, lowest=1e-3, highest=100.0) == pytest.approx(4 * factor, rel=1e-3)


def test_momentum():
    after = dynamic_temperature(torch.tensor(3.0), torch.tensor(0.0), 1.0, lowest=2.0, momentum=0.75)
    assert after.item() == pytest.approx(0.75 * 3 + 0.25 * 2)


def test_the_gap_is_that_of_the_cross_entropies():
    student, teacher, target = both()
    entropies = [torch.nn.functional.cross_entropy(x, target) for x in (student, teacher)]
    torch.testing.assert_close(loss_gap(student, teacher, target), entropies[1] - entropies[0])


def test_the_term_sees_the_temperature_after_the_step():
    student, teacher, target = both()
    loss = dts(kd(), progress=0.9).double()
    value = call(loss, student, teacher, target)
    gap = loss_gap(student, teacher, target).detach()
    after = dynamic_temperature(torch.tensor(4.0, dtype=torch.float64), gap, 0.9)
    assert torch.equal(loss.temperature, after)
    assert after < 4
    torch.testing.assert_close(value, call(kd(after.item()), student, teacher, target))


def test_the_step_before_can_still_be_differentiated():
    student, teacher, target = both()
    loss = dts(kd()).double()
    first = call(loss, student, teacher, target)
    expected = torch.autograd.grad(call(kd(loss.temperature.item()), student, teacher, target), student)
    call(loss, student, teacher, target)
    torch.testing.assert_close(torch.autograd.grad(first, student), expected)


def test_it_is_no_parameter_but_part_of_the_state():
    loss = DTS(kd(), initial=3.0)
    assert not list(loss.parameters())
    assert loss.state_dict() == {"temperature": torch.tensor(3.0)}


def test_in_training_somebody_must_say_how_far_it_is():
    loss = DTS(kd())
    with pytest.raises(InputError, match=r"progress of DTS must be .* \(callback Schedule .*\), got nan"):
        call(loss, *both())
    assert isinstance(loss.progress, float)  # or a schedule would not find it
    assert math.isfinite(call(loss.eval(), *both()).detach())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"initial": 0.0}, "temperature must be positive, got 0.0"),
        ({"lowest": 3.0, "highest": 2.0}, r"lowest, highest must be positive and in this order, got 3.0, 2.0"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ({"curve": -1.0}, "curve must be 0 or positive, got -1.0"),
    ],
)
def test_bad_hyperparameters(given, message):
    with pytest.raises(InputError, match=message):
        DTS(kd(), **given)
