import pytest
import torch

from lit_distill.errors import InputError
from lit_distill.losses import NKD
from lit_distill.losses.logit import dkd, nkd
from lit_distill.losses.logit.nkd import nkd_rows

TARGET = torch.tensor([0, 1, 2, 3, 4, 0])


def both(batch=6, classes=5):
    generator = torch.Generator().manual_seed(0)
    student, teacher = 2 * torch.randn(2, batch, classes, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def test_sample_by_sample():
    student, teacher = both()
    total = 0.0
    for s, t, y in zip(student, teacher, TARGET.tolist(), strict=True):
        total -= t.softmax(-1)[y] * s.log_softmax(-1)[y]
        rest = [c for c in range(5) if c != y]
        total -= 1.5 * 4 * ((t[rest] / 2).softmax(-1) * (s[rest] / 2).log_softmax(-1)).sum()
    torch.testing.assert_close(nkd(student, teacher, TARGET, gamma=1.5, temperature=2.0), total / 6)


def test_among_the_other_classes_it_teaches_what_dkd_does():
    student, teacher = both()
    _, rest = nkd_rows(student, teacher, TARGET, 2.0)
    (gradient,) = torch.autograd.grad(rest.mean(), student)
    (of_dkd,) = torch.autograd.grad(dkd(student, teacher, TARGET, alpha=0, beta=1, temperature=2.0), student)
    torch.testing.assert_close(gradient, of_dkd)


def test_only_the_other_classes_have_a_temperature():
    student, teacher = both()
    torch.testing.assert_close(*(nkd(student, teacher, TARGET, gamma=0.0, temperature=t) for t in (1.0, 5.0)))


def test_the_label_is_raised_even_by_an_equal_teacher():
    student, _ = both()
    (gradient,) = torch.autograd.grad(nkd(student, student.detach(), TARGET), student)
    assert (gradient.gather(1, TARGET[:, None]) < 0).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gamma": -1.0}, "gamma must be 0 or positive, got -1.0"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
    ],
)
def test_bad_hyperparameters(settings, message):
    with pytest.raises(InputError, match=message):
        NKD(**settings)
