import pytest
import torch

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import SKD
from lit_distill.losses.logit import kd, skd_direction


def both(batch=6, classes=5):
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, batch, classes, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def test_a_student_that_equals_its_teacher_has_nothing_to_learn():
    student, _ = both()
    value = skd_direction(student, student.detach())
    (gradient,) = torch.autograd.grad(value, student)
    assert value == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_direction_sees_neither_the_length_of_logits_nor_a_rotation():
    student, teacher = both()
    value = skd_direction(student, teacher)
    lengths = torch.rand(6, 1, dtype=torch.float64) + 0.5
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    torch.testing.assert_close(skd_direction(lengths * student, teacher @ rotation), value)


def test_direction_does_not_depend_on_the_order_of_samples():
    student, teacher = both()
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(skd_direction(student[order], teacher[order]), skd_direction(student, teacher))


def test_direction_by_its_formula():
    student, teacher = both()
    cosines = [torch.cosine_similarity(x[:, None], x[None], dim=-1) for x in (student, teacher)]
    difference = cosines[0] - cosines[1]
    inverse = torch.linalg.inv(torch.cov(difference.T) + 0.3 * torch.eye(6))
    lengths = torch.stack([(row @ inverse @ row).sqrt() for row in difference])
    torch.testing.assert_close(skd_direction(student, teacher, 0.3), lengths.mean())


def test_one_sample_has_no_direction():
    student, teacher = both(batch=1)
    value = skd_direction(student, teacher)
    (gradient,) = torch.autograd.grad(value, student)
    torch.testing.assert_close(value, torch.zeros_like(value))
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))


def test_the_divergence_has_no_square_of_the_temperature():
    student, teacher = both()
    only = SKD(temperature=3.0, direction_weight=0.0)(Outputs(student), Outputs(teacher), torch.empty(0))
    torch.testing.assert_close(only, kd(student, teacher, 3.0) / 9)


def test_the_class_passes_its_hyperparameters():
    student, teacher = both()
    value = SKD(temperature=3.0, tikhonov=0.2, direction_weight=2.0)(Outputs(student), Outputs(teacher), torch.empty(0))
    expected = kd(student, teacher, 3.0) / 9 + 2 * skd_direction(student, teacher, 0.2)
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"tikhonov": 0.0}, "tikhonov must be positive, got 0.0"),
        ({"direction_weight": -1.0}, "direction_weight must be 0 or positive, got -1.0"),
    ],
)
def test_bad_hyperparameters(given, message):
    with pytest.raises(InputError, match=message):
        SKD(**given)
