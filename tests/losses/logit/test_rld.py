import pytest
import torch

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import RLD
from lit_distill.losses.logit import kd, rld


def both(batch=6, classes=5):
    generator = torch.Generator().manual_seed(0)
    student, teacher = 2 * torch.randn(2, batch, classes, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def test_a_student_that_equals_a_teacher_who_is_right_has_nothing_to_learn():
    student, _ = both()
    value = rld(student, student.detach(), student.argmax(-1))
    (gradient,) = torch.autograd.grad(value, student)
    torch.testing.assert_close(value, torch.zeros_like(value))
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))


def test_a_student_that_equals_a_teacher_who_is_wrong_moves_to_the_label():
    _, teacher = both()
    student, worst = teacher.clone().requires_grad_(), teacher.argmin(-1)
    (gradient,) = torch.autograd.grad(rld(student, teacher, worst), student)
    assert (gradient.gather(1, worst[:, None]) < 0).all()


def test_classes_above_the_label_are_not_taught():
    student, teacher = both()
    second = teacher.topk(2).indices[:, 1]
    (gradient,) = torch.autograd.grad(rld(student, teacher, second, alpha=0), student)
    taught = teacher < teacher.gather(1, second[:, None])
    assert (gradient[~taught] == 0).all()
    assert (gradient[taught] != 0).all()


def test_where_the_teacher_is_right_the_correlation_is_that_of_the_other_classes():
    student, teacher = both()
    best = teacher.argmax(-1)
    others = torch.ones_like(teacher, dtype=torch.bool).scatter(1, best[:, None], False)
    s, t = (x[others].view(6, 4) for x in (student, teacher))
    torch.testing.assert_close(rld(student, teacher, best, alpha=0, beta=1, temperature=3.0), kd(s, t, 3.0))


def test_a_label_ranked_last_leaves_nothing_to_correlate_but_counts_as_a_sample():
    student, teacher = both()
    label = teacher.argmax(-1)
    label[2:] = teacher[2:].argmin(-1)
    value = rld(student, teacher, label, alpha=0)
    assert value > 0
    torch.testing.assert_close(value, rld(student[:2], teacher[:2], label[:2], alpha=0) / 3)
    (gradient,) = torch.autograd.grad(value, student)
    assert gradient[2:].abs().max() == 0


def test_with_two_classes_the_confidence_is_kd():
    student, teacher = both(classes=2)
    value = rld(student, teacher, teacher.argmax(-1), beta=0, confidence_temperature=2.0)
    torch.testing.assert_close(value, kd(student, teacher, 2.0))


def test_the_class_passes_its_hyperparameters():
    student, teacher = both()
    given = {"alpha": 2.0, "beta": 3.0, "temperature": 2.5, "confidence_temperature": 1.5}
    target = torch.arange(6) % 5
    value = RLD(**given)(Outputs(student), Outputs(teacher), target)
    torch.testing.assert_close(value, rld(student, teacher, target, **given))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"alpha": -1.0}, "alpha must be 0 or positive, got -1.0"),
        ({"beta": -1.0}, "beta must be 0 or positive, got -1.0"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"confidence_temperature": 0.0}, "confidence_temperature must be positive, got 0.0"),
    ],
)
def test_bad_hyperparameters(given, message):
    with pytest.raises(InputError, match=message):
        RLD(**given)


def test_a_target_must_fit():
    student, teacher = both()
    with pytest.raises(InputError, match=r"target must be class indices \(6,\) or class probabilities \(6, 5\), got"):
        rld(student, teacher, torch.zeros(5, dtype=torch.long))
