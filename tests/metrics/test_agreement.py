import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy

from lit_distill.errors import InputError
from lit_distill.metrics import TeacherAgreement
from lit_distill.metrics.agreement import teacher_agreement


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(50, 5, generator=generator)
    return student, student + torch.randn(50, 5, generator=generator)


def test_equals_accuracy_against_the_teachers_answer(logits):
    student, teacher = logits
    metric, reference = TeacherAgreement(), MulticlassAccuracy(5, average="micro")
    for part in (slice(0, 32), slice(32, 50)):  # the last batch is smaller, and counts for less
        metric.update(student[part], teacher[part])
        reference.update(student[part], teacher[part].argmax(1))
    assert metric.compute() == reference.compute()
    assert metric.compute() == teacher_agreement(student, teacher)
    assert 0 < metric.compute() < 1


def test_is_symmetric_and_blind_to_scale_and_shift(logits):
    student, teacher = logits
    expected = teacher_agreement(student, teacher)
    assert teacher_agreement(teacher, student) == expected
    assert teacher_agreement(3 * student - 2, teacher) == expected
    assert teacher_agreement(student, student) == 1


def test_every_row_of_tokens_counts(logits):
    student, teacher = logits
    expected = teacher_agreement(student, teacher)
    assert teacher_agreement(student.view(5, 10, 5), teacher.view(5, 10, 5)) == expected


def test_different_classes_are_refused():
    with pytest.raises(InputError, match=r"teacher: logits of shape \(4, 3\)"):
        TeacherAgreement().update(torch.zeros(4, 2), torch.zeros(4, 3))
    with pytest.raises(InputError, match="accepted are two equal shapes"):
        TeacherAgreement().update(torch.zeros(4), torch.zeros(4))
