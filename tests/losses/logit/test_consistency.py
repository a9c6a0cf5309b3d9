import pytest
import torch

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import ProbabilityMSE
from lit_distill.losses.logit.consistency import probability_mse


def logits(batch=6, classes=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    student, teacher = 2 * torch.randn(2, batch, classes, generator=generator, dtype=torch.float64)
    return student.to(dtype).requires_grad_(), teacher.to(dtype)


def test_is_the_squared_distance_of_the_probabilities_over_the_classes():
    student, teacher = logits()
    by_sample = (student.softmax(1) - teacher.softmax(1)).square().sum(1) / 5
    torch.testing.assert_close(probability_mse(student, teacher), by_sample.mean())


def test_is_zero_where_both_agree_and_at_most_two_for_all_classes():
    student = logits()[0]
    assert probability_mse(student, student.detach() + 3) < 1e-30
    opposite = torch.tensor([[1e4, -1e4, -1e4]]), torch.tensor([[-1e4, 1e4, -1e4]])
    torch.testing.assert_close(probability_mse(*opposite), torch.tensor(2 / 3))


def test_does_not_depend_on_the_size_of_the_batch():
    student, teacher = logits()
    torch.testing.assert_close(
        probability_mse(student.repeat(3, 1), teacher.repeat(3, 1)), probability_mse(student, teacher)
    )


def test_temperature_divides_both():
    student, teacher = logits()
    torch.testing.assert_close(probability_mse(4 * student, 4 * teacher, 4.0), probability_mse(student, teacher))


def test_gradient():
    student, teacher = logits()
    assert torch.autograd.gradcheck(lambda s: probability_mse(s, teacher, 2.0), student)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_finite_at_extreme_logits(dtype):
    student = torch.tensor([[1e4, -1e4, 0], [-1e4, -1e4, -1e4]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[-1e4, 1e4, 0], [1e4, 0, 0]], dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
        value = ProbabilityMSE()(Outputs(student), Outputs(teacher), torch.tensor([0, 1]))
    value.backward()
    assert value.isfinite()
    assert value.dtype == torch.float32
    assert student.grad.isfinite().all()


def test_bad_input():
    with pytest.raises(InputError, match="temperature must be positive"):
        ProbabilityMSE(temperature=0.0)
    student, teacher = logits()
    with pytest.raises(InputError, match="of one shape"):
        probability_mse(student, teacher[:, :3])
