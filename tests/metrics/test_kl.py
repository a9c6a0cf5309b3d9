import pytest
import torch
from scipy.stats import entropy
from torchmetrics import KLDivergence

from lit_distill.errors import InputError
from lit_distill.metrics import TeacherKL
from lit_distill.metrics.kl import teacher_kl


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.randn(50, 5, generator=generator), 3 * torch.randn(50, 5, generator=generator)


def test_equals_torchmetrics_and_scipy(logits):
    student, teacher = logits
    metric, reference = TeacherKL(), KLDivergence()
    for part in (slice(0, 32), slice(32, 50)):
        metric.update(student[part], teacher[part])
        reference.update(teacher[part].softmax(1), student[part].softmax(1))
    torch.testing.assert_close(metric.compute(), reference.compute())
    each = entropy(teacher.double().softmax(1), student.double().softmax(1), axis=1)
    torch.testing.assert_close(teacher_kl(student.double(), teacher.double()), torch.from_numpy(each))


def test_is_zero_for_the_teacher_itself_and_positive_otherwise(logits):
    student, teacher = logits
    torch.testing.assert_close(teacher_kl(teacher + 7, teacher), torch.zeros(50), atol=1e-6, rtol=0)
    assert (teacher_kl(student, teacher) > 0).all()


def test_half_precision_logits_are_compared_in_single(logits):
    student, teacher = (x.bfloat16() for x in logits)
    metric = TeacherKL()
    with torch.autocast("cpu", torch.bfloat16):
        metric.update(student, teacher)
    assert metric.compute() == teacher_kl(student.float(), teacher.float()).mean()


def test_extreme_logits():
    teacher = torch.tensor([[1e4, 0.0, -1e4], [0.0, -float("inf"), 0.0]])
    student = torch.tensor([[0.0, 1e4, 0.0], [0.0, 0.0, 0.0]])
    certain, ruled_out = teacher_kl(student, teacher)
    torch.testing.assert_close(certain, torch.tensor(1e4))  # certain of a class to which the student gives exp(-1e4)
    torch.testing.assert_close(ruled_out, torch.tensor(1.5).log())  # 1/2, 0, 1/2 against 1/3, 1/3, 1/3
    assert teacher_kl(torch.tensor([[0.0, -float("inf")]]), torch.zeros(1, 2)).isinf().all()


def test_different_classes_are_refused():
    with pytest.raises(InputError, match="teacher: logits of shape"):
        TeacherKL().update(torch.zeros(4, 2), torch.zeros(4, 3))
