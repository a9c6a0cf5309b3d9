import pytest
import torch

from lit_distill.errors import InputError
from lit_distill.losses import TTM, WTTM
from lit_distill.losses.logit import kd, ttm, wttm


def both(batch=6, classes=5):
    generator = torch.Generator().manual_seed(0)
    student, teacher = 2 * torch.randn(2, batch, classes, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def test_without_a_power_it_is_kd_without_a_temperature():
    student, teacher = both()
    torch.testing.assert_close(ttm(student, teacher, gamma=1.0), kd(student, teacher, temperature=1.0))
    torch.testing.assert_close(wttm(student, teacher, gamma=1.0), kd(student, teacher, temperature=1.0))


def test_the_power_is_a_temperature_of_the_teacher_alone():
    student, teacher = both()
    torch.testing.assert_close(ttm(student, teacher, gamma=0.25), kd(4 * student, teacher, temperature=4.0) / 16)


def test_weights_are_sums_of_powers():
    student, teacher = both()
    powers = teacher.softmax(-1).pow(0.2)
    u = powers.sum(-1, keepdim=True)
    rows = ((powers / u) * ((powers / u).log() - student.log_softmax(-1))).sum(-1)
    torch.testing.assert_close(ttm(student, teacher, gamma=0.2), rows.mean())
    torch.testing.assert_close(wttm(student, teacher, gamma=0.2), (u.squeeze(-1) * rows).mean())


@pytest.mark.parametrize(("scale", "weight"), [(1e4, 1.0), (0.0, 5**0.9)])
def test_a_certain_teacher_weighs_least_and_one_without_a_clue_most(scale, weight):
    student, _ = both(batch=1)
    teacher = scale * torch.eye(5, dtype=torch.float64)[:1]
    torch.testing.assert_close(wttm(student, teacher, gamma=0.1), weight * ttm(student, teacher, gamma=0.1))


@pytest.mark.parametrize("loss", [ttm, wttm])
def test_nothing_to_learn_for_a_student_as_soft_as_the_power(loss):
    _, teacher = both()
    student = (0.1 * teacher).requires_grad_()
    value = loss(student, teacher, gamma=0.1)
    (gradient,) = torch.autograd.grad(value, student)
    torch.testing.assert_close(value, torch.zeros_like(value))
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("loss", [ttm, wttm])
def test_powers_of_probabilities_that_float32_does_not_hold(loss):
    teacher = torch.tensor([[0.0, -150.0, -120.0]])
    student = torch.tensor([[0.0, 1e3, 0.0]])
    exact = loss(student.double(), teacher.double())
    torch.testing.assert_close(loss(student, teacher).double(), exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", [TTM, WTTM])
def test_bad_hyperparameters(kind):
    with pytest.raises(InputError, match="gamma must be positive, got 0"):
        kind(gamma=0.0)
