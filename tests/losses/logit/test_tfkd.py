import pytest
import torch
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import TfKDReg, TfKDSelf
from lit_distill.losses.divergences import forward_kl
from lit_distill.losses.logit import kd, tfkd_reg, tfkd_self

TARGET = torch.tensor([0, 1, 2, 3, 4, 0])
both_modes = pytest.mark.parametrize("mode", ["paper", "code"])


def both(batch=6, classes=5):
    generator = torch.Generator().manual_seed(0)
    student, teacher = 2 * torch.randn(2, batch, classes, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def virtual_teacher(correct):
    return torch.full((6, 5), (1 - correct) / 4).double().scatter(1, TARGET[:, None], correct)


@pytest.mark.parametrize(("correct", "temperature"), [(0.99, 20.0), (0.9, 0.1), (1.0, 1e-3)])
def test_divergence_from_a_table_of_probabilities(correct, temperature):
    student, _ = both()
    u = virtual_teacher(correct) / temperature
    code, paper = (tfkd_reg(student, TARGET, correct, temperature, mode) for mode in ("code", "paper"))
    torch.testing.assert_close(code, forward_kl(student, u).mean() / 5)
    torch.testing.assert_close(paper, forward_kl(student / temperature, u).mean())


def test_mode_code_is_label_smoothing_but_for_a_constant():
    student, _ = both()
    (gradient,) = torch.autograd.grad(tfkd_reg(student, TARGET, correct=0.99, temperature=2.0), student)
    smoothing = 5 * (virtual_teacher(0.99) / 2).softmax(-1).min().item()
    (expected,) = torch.autograd.grad(F.cross_entropy(student, TARGET, label_smoothing=smoothing) / 5, student)
    torch.testing.assert_close(gradient, expected)


@both_modes
def test_nothing_to_learn_for_a_student_like_the_virtual_teacher(mode):
    student = virtual_teacher(0.9) / (3 if mode == "code" else 1)
    value = tfkd_reg(student.requires_grad_(), TARGET, 0.9, 3.0, mode)
    (gradient,) = torch.autograd.grad(value, student)
    torch.testing.assert_close(value, torch.zeros_like(value))
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))


def test_the_virtual_teacher_needs_no_other():
    student, _ = both()
    value = TfKDReg(mode="paper")(Outputs(student), None, TARGET)
    torch.testing.assert_close(value, tfkd_reg(student, TARGET, mode="paper"))


def test_self_training_is_kd_and_the_code_divides_by_the_classes():
    student, teacher = both()
    torch.testing.assert_close(tfkd_self(student, teacher, 6.0, "paper"), kd(student, teacher, 6.0))
    torch.testing.assert_close(tfkd_self(student, teacher, 6.0), kd(student, teacher, 6.0) / 5)


@pytest.mark.parametrize("kind", [TfKDReg, TfKDSelf])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "fast"}, "mode must be 'paper' or 'code', got 'fast'"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
    ],
)
def test_bad_hyperparameters(kind, settings, message):
    with pytest.raises(InputError, match=message):
        kind(**settings)


@pytest.mark.parametrize("correct", [0.0, 1.1])
def test_a_probability_is_wanted(correct):
    with pytest.raises(InputError, match=r"correct must be in \(0, 1\], got"):
        TfKDReg(correct=correct)
