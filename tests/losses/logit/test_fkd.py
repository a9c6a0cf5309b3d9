import pytest
import torch

from lit_distill.errors import InputError
from lit_distill.losses import FKD
from lit_distill.losses.logit import fkd, kd
from lit_distill.store import expand, keep


def both(batch=6, classes=5):
    generator = torch.Generator().manual_seed(0)
    student, teacher = 2 * torch.randn(2, batch, classes, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def test_sample_by_sample():
    student, teacher = both()
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        p, q = t.softmax(-1), (s / 3).softmax(-1)
        total -= sum(p[c] * q[c].log() for c in range(5))
    torch.testing.assert_close(fkd(student, teacher, temperature=3.0), total / 6)


def test_it_is_kd_at_temperature_1_and_the_teachers_entropy():
    student, teacher = both()
    entropy = torch.distributions.Categorical(logits=teacher).entropy().mean()
    torch.testing.assert_close(fkd(student, teacher), kd(student, teacher, 1.0) + entropy)
    (gradient,) = torch.autograd.grad(fkd(student, teacher), student)
    (of_kd,) = torch.autograd.grad(kd(student, teacher, 1.0), student)
    torch.testing.assert_close(gradient, of_kd)


def test_logits_and_stored_log_probabilities_are_one():
    student, teacher = both()
    torch.testing.assert_close(fkd(student, expand(keep(teacher, 5), 5)), fkd(student, teacher))


def test_a_hard_label_of_the_teacher():
    """The teacher's favourite alone, which other classes have nothing of."""
    student, teacher = both()
    hard = fkd(student, expand(keep(teacher, 1), 5, "renorm"))
    torch.testing.assert_close(hard, torch.nn.functional.cross_entropy(student, teacher.argmax(-1)))


def test_gradient():
    student, teacher = both()
    assert torch.autograd.gradcheck(lambda s: fkd(s, teacher, 2.0), student)


def test_errors():
    with pytest.raises(InputError, match="temperature must be positive"):
        FKD(temperature=0.0)
    with pytest.raises(InputError, match="of one shape"):
        fkd(torch.zeros(2, 3), torch.zeros(2, 4))
