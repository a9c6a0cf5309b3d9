import pytest
import torch

from lit_distill.errors import InputError
from lit_distill.losses import DTKD
from lit_distill.losses.divergences import forward_kl
from lit_distill.losses.logit import dtkd, kd


def both(batch=6, classes=5):
    generator = torch.Generator().manual_seed(0)
    student, teacher = 5 + torch.randn(2, batch, classes, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def test_sample_by_sample():
    student, teacher = both()
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        warm_s, warm_t = (2 * x.max() / (s.max() + t.max()) * 4 for x in (s, t))
        total += 3 * warm_s * warm_t * forward_kl(s / warm_s, t / warm_t) + 16 * forward_kl(s, t, 4.0)
    value = dtkd(student, teacher, alpha=3.0, beta=1.0, temperature=4.0)
    torch.testing.assert_close(value, total / 6)
    # the gradient flows through the temperatures too
    (gradient,), (expected,) = (torch.autograd.grad(x, student) for x in (value, total / 6))
    torch.testing.assert_close(gradient, expected)


def test_equally_large_logits_have_the_fixed_temperature():
    student, teacher = both()
    teacher = teacher * (student.amax(-1, keepdim=True) / teacher.amax(-1, keepdim=True)).detach()
    torch.testing.assert_close(dtkd(student, teacher, 3.0, 1.0, 2.0), 4 * kd(student, teacher, 2.0))


@pytest.mark.parametrize("scale", [0.1, 1.0, 7.0])
def test_only_the_fixed_temperature_sees_how_sharp_the_student_is(scale):
    _, teacher = both()
    value = dtkd(scale * teacher, teacher, beta=0.0)
    torch.testing.assert_close(value, torch.zeros_like(value))


@pytest.mark.parametrize(("s", "t"), [(-1.0, 1.0), (1.0, -1.0), (-1.0, -1.0), (0.0, 0.0), (-1e4, 1e4)])
def test_largest_logits_of_0_or_less(s, t):
    student = torch.tensor([[s, s - 2, s - 1]], requires_grad=True)
    value = dtkd(student, torch.tensor([[t, t - 1, t - 2]]))
    (gradient,) = torch.autograd.grad(value, student)
    assert value > 0
    assert gradient.isfinite().all()
    assert gradient[0, 1] < gradient[0, 2]  # the order of the classes is not turned


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
        DTKD(**settings)
