import pytest
import torch

from lit_distill.errors import InputError
from lit_distill.losses import DIST
from lit_distill.losses.logit import dist


def both(batch=6, classes=5):
    generator = torch.Generator().manual_seed(0)
    student, teacher = 2 * torch.randn(2, batch, classes, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def correlation(a, b):
    return torch.corrcoef(torch.stack([a, b]))[0, 1]


def test_row_by_row_and_column_by_column():
    student, teacher = both()
    q, p = (student / 3).softmax(-1), (teacher / 3).softmax(-1)
    rows = sum(1 - correlation(a, b) for a, b in zip(q, p, strict=True)) / 6
    columns = sum(1 - correlation(a, b) for a, b in zip(q.T, p.T, strict=True)) / 5
    value = dist(student, teacher, beta=2.0, gamma=0.5, temperature=3.0)
    torch.testing.assert_close(value, 9 * (2 * rows + 0.5 * columns), rtol=1e-5, atol=0)


def test_a_student_less_sure_by_the_same_share_has_nothing_to_learn():
    _, teacher = both()
    p = teacher.softmax(-1)
    student = (0.3 * p + 0.7 / 5).log()
    value = dist(student, teacher, temperature=1.0)
    torch.testing.assert_close(value, torch.zeros_like(value), atol=1e-5, rtol=0)
    other = 0.1 + 0.8 * torch.rand(6, 1, dtype=torch.float64)  # another share for each sample
    shares = (other * p + (1 - other) / 5).log()
    over_classes = dist(shares, teacher, gamma=0.0, temperature=1.0)
    torch.testing.assert_close(over_classes, torch.zeros_like(value), atol=1e-5, rtol=0)
    assert dist(shares, teacher, beta=0.0, temperature=1.0) > 1e-3


def test_samples_and_classes_in_another_order():
    student, teacher = both()
    value = dist(student, teacher)
    samples, classes = torch.randperm(6), torch.randperm(5)
    torch.testing.assert_close(dist(student[samples], teacher[samples]), value)
    torch.testing.assert_close(dist(student[:, classes], teacher[:, classes]), value)


def test_a_single_sample_has_relations_over_classes_alone():
    student, teacher = both(batch=1)
    (gradient,) = torch.autograd.grad(dist(student, teacher, beta=0.0), student)
    assert not gradient.any()
    value = dist(student, teacher, gamma=0.0)
    (gradient,) = torch.autograd.grad(value, student)
    assert gradient.isfinite().all()
    assert gradient.any()


def test_classes_that_nobody_predicts_hardly_count():
    logits = 10 * torch.randn(32, 1000, generator=torch.Generator().manual_seed(0))
    assert dist(logits, logits, beta=0.0, temperature=1.0) > 0.1
    assert dist(logits, logits, gamma=0.0, temperature=1.0) < 1e-5


def test_rows_of_rows_are_refused():
    with pytest.raises(InputError, match=r"student logits must be of shape \(B, C\), got \(2, 3, 5\)"):
        dist(torch.zeros(2, 3, 5), torch.zeros(2, 3, 5))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": -1.0}, "beta must be 0 or positive, got -1.0"),
        ({"gamma": -1.0}, "gamma must be 0 or positive, got -1.0"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
    ],
)
def test_bad_hyperparameters(settings, message):
    with pytest.raises(InputError, match=message):
        DIST(**settings)
