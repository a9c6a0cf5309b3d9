import math

import pytest
import torch
from torch.nn import functional as F

from lit_distill.errors import InputError
from lit_distill.losses import WSLD
from lit_distill.losses.logit import kd, wsld

TARGET = torch.tensor([0, 1, 2, 3, 4, 0])


def both(batch=6, classes=5):
    generator = torch.Generator().manual_seed(0)
    student, teacher = 2 * torch.randn(2, batch, classes, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def weights(student, teacher):
    s, t = (F.cross_entropy(x.detach(), TARGET, reduction="none") for x in (student, teacher))
    return 1 - (-s / t).exp()


def test_a_weighted_cross_entropy():
    student, teacher = both()
    soft = F.cross_entropy(student / 3, (teacher / 3).softmax(-1), reduction="none")
    value = 2.0 * 9 * (weights(student, teacher) * soft).mean()
    torch.testing.assert_close(wsld(student, teacher, TARGET, alpha=2.0, temperature=3.0), value, rtol=1e-5, atol=0)


def test_gradient_is_that_of_kd_with_constant_weights():
    student, teacher = both()
    (gradient,) = torch.autograd.grad(wsld(student, teacher, TARGET, alpha=1.0, temperature=3.0), student)
    (of_kd,) = torch.autograd.grad(kd(student, teacher, 3.0), student)
    torch.testing.assert_close(gradient, weights(student, teacher)[:, None] * of_kd, rtol=1e-5, atol=0)


def test_an_equal_teacher_has_weight_one_minus_1_over_e_and_teaches_nothing():
    student, _ = both()
    value = wsld(student, student.detach(), TARGET, alpha=1.0, temperature=1.0)
    entropy = torch.distributions.Categorical(logits=student).entropy().mean()
    torch.testing.assert_close(value, (1 - math.exp(-1)) * entropy, rtol=1e-5, atol=0)
    (gradient,) = torch.autograd.grad(value, student)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))


def test_what_the_student_knows_is_not_taught_and_what_only_the_teacher_knows_is():
    sure, lost = 100 * torch.eye(5, dtype=torch.float64), torch.zeros(5, 5, dtype=torch.float64)
    target = torch.arange(5)
    torch.testing.assert_close(wsld(sure, lost, target), torch.zeros((), dtype=torch.float64))
    full = 2.25 * 16 * F.cross_entropy(lost / 4, (sure / 4).softmax(-1))
    torch.testing.assert_close(wsld(lost, sure, target), full)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": -1.0}, "alpha must be 0 or positive, got -1.0"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
    ],
)
def test_bad_hyperparameters(settings, message):
    with pytest.raises(InputError, match=message):
        WSLD(**settings)
