import pytest
import torch

from lit_distill.callbacks import Schedule
from lit_distill.errors import InputError
from lit_distill.losses import CTKD
from lit_distill.losses.modifiers import adversarial_temperature

from .common import both, call, kd


def loss_at(theta):
    """The term as a plain function of the parameter."""
    return call(kd(1 + 20 * torch.sigmoid(theta)), *both())


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_the_parameter_gets_minus_strength_times_its_gradient_and_the_student_all_of_its_own(strength):
    student, teacher, target = both()
    loss = CTKD(kd(), strength=strength).double()
    value = call(loss, student, teacher, target)
    gradients = torch.autograd.grad(value, [student, loss.theta])
    theta = torch.ones((), dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(loss_at(theta), theta)
    (of_student,) = torch.autograd.grad(
        call(kd(1 + 20 * theta.detach().sigmoid().item()), student, teacher, target), student
    )
    torch.testing.assert_close(value, loss_at(theta))
    torch.testing.assert_close(gradients[1].squeeze(), -strength * expected)
    torch.testing.assert_close(gradients[0], of_student)


def test_descent_on_the_parameter_makes_the_task_harder():
    student, teacher, target = both()
    loss = CTKD(kd()).double()
    optimizer = torch.optim.SGD([loss.theta], lr=10.0)
    values = []
    for _ in range(5):
        value = call(loss, student.detach(), teacher, target)
        values.append(value.item())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert values == sorted(values)
    assert values[-1] > values[0]


def test_the_value_does_not_depend_on_the_strength():
    theta = torch.tensor([0.3])
    values = {adversarial_temperature(theta, strength=strength).item() for strength in (0.0, 0.1, 1.0, 7.0)}
    assert len(values) == 1


@pytest.mark.parametrize("theta", [-100.0, 0.0, 100.0])
def test_the_temperature_stays_in_its_range(theta):
    temperature = adversarial_temperature(torch.tensor([theta]), lowest=2.0, span=3.0)
    assert temperature.shape == ()
    assert 2 <= temperature <= 5


def test_the_parameter_can_be_sharded_and_stays_precise():
    loss = CTKD(kd()).bfloat16()
    assert loss.theta.shape == (1,)
    assert loss.current(None, None, None).dtype is torch.float32


def test_the_curriculum_is_a_schedule_of_the_strength():
    loss = CTKD(kd())
    loss.strength = Schedule("losses.kd.strength", start=0.0, end=1.0, shape="cosine", until=0.5).at(0.25)
    student, teacher, target = both(dtype=torch.float32)
    (half,) = torch.autograd.grad(call(loss, student, teacher, target), loss.theta)
    loss.strength = 1.0
    (full,) = torch.autograd.grad(call(loss, student, teacher, target), loss.theta)
    torch.testing.assert_close(2 * half, full)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lowest": 0.0}, "temperature must be positive, got 0.0"),
        ({"span": -1.0}, "span must be 0 or positive, got -1.0"),
        ({"strength": -1.0}, "strength must be 0 or positive, got -1.0"),
    ],
)
def test_bad_hyperparameters(given, message):
    with pytest.raises(InputError, match=message):
        CTKD(kd(), **given)
