import math

import pytest
import torch

from lit_distill.errors import InputError
from lit_distill.losses import DKD
from lit_distill.losses.divergences import forward_kl
from lit_distill.losses.logit import dkd
from lit_distill.losses.logit.dkd import dkd_rows

TARGET = torch.tensor([0, 1, 2, 3, 4, 0])


def both(batch=6, classes=5):
    generator = torch.Generator().manual_seed(0)
    student, teacher = 2 * torch.randn(2, batch, classes, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def test_with_the_teachers_doubt_as_beta_it_is_kd():
    student, teacher = both()
    label, rest = dkd_rows(student, teacher, TARGET, 3.0)
    doubt = 1 - (teacher / 3).softmax(-1).gather(-1, TARGET[:, None]).squeeze(-1)
    torch.testing.assert_close(label + doubt * rest, 9 * forward_kl(student, teacher, 3.0))


def test_nothing_to_learn_from_an_equal_teacher():
    student, _ = both()
    value = dkd(student, student.detach(), TARGET)
    (gradient,) = torch.autograd.grad(value, student)
    torch.testing.assert_close(value, torch.zeros_like(value))
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))


def test_the_first_part_sees_one_probability_and_the_second_all_others():
    student, teacher = both()
    label, rest = dkd_rows(student, teacher, TARGET)
    others = torch.stack([torch.tensor([c for c in range(5) if c != y]) for y in TARGET])
    turned = student.scatter(1, others, student.gather(1, others.roll(1, 1)))
    torch.testing.assert_close(dkd_rows(turned, teacher, TARGET)[0], label)
    raised = student.scatter_add(1, TARGET[:, None], torch.full((6, 1), 3.0, dtype=torch.float64))
    torch.testing.assert_close(dkd_rows(raised, teacher, TARGET)[1], rest)


def test_a_certain_student_has_a_value():
    # the probability of the other classes is exp(-120), which float32 does not hold
    value = dkd(torch.tensor([[120.0, 0.0, 0.0]]), torch.zeros(1, 3), torch.tensor([0]), beta=0.0, temperature=1.0)
    expected = math.log(1 / 3) / 3 + 2 / 3 * (math.log(2 / 3) - (math.log(2) - 120))
    torch.testing.assert_close(value.item(), expected, rtol=1e-5, atol=0)


def test_gradient_keeps_its_size_when_the_temperature_grows():
    student, teacher = both()
    sizes = [torch.autograd.grad(dkd(student, teacher, TARGET, 1, 1, t), student)[0].norm() for t in (30.0, 300.0)]
    torch.testing.assert_close(*sizes, rtol=0.1, atol=0)


def test_one_value_a_row_of_any_shape():
    student, teacher = both()
    flat = dkd_rows(student, teacher, TARGET)
    shaped = dkd_rows(student.view(2, 3, 5), teacher.view(2, 3, 5), TARGET.view(2, 3))
    for a, b in zip(flat, shaped, strict=True):
        torch.testing.assert_close(a.view(2, 3), b)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": -1.0}, "alpha must be 0 or positive, got -1.0"),
        ({"beta": -1.0}, "beta must be 0 or positive, got -1.0"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
    ],
)
def test_bad_hyperparameters(settings, message):
    with pytest.raises(InputError, match=message):
        DKD(**settings)
