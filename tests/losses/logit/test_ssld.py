import pytest
import torch

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import JSD, SSLD, DivergenceKD
from lit_distill.losses.logit import kd, ssld

MODES = pytest.mark.parametrize("mode", ["paper", "code"])


def both(batch=6, classes=5):
    generator = torch.Generator().manual_seed(0)
    student, teacher = 2 * torch.randn(2, batch, classes, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def test_the_released_loss():
    student, teacher = both()
    q, p = student.softmax(1), teacher.softmax(1)
    # every element times the number of classes, then one mean over samples and classes
    released = (5 * (p * (p / q).log() + q * (q / p).log()) / 2).mean()
    torch.testing.assert_close(ssld(student, teacher), released)


def test_mode_code_is_half_of_kd_in_both_directions():
    student, teacher = both()
    value = (kd(student, teacher, temperature=1.0) + kd(teacher, student, temperature=1.0)) / 2
    torch.testing.assert_close(ssld(student, teacher, "code"), value)


def test_mode_paper_is_the_jensen_shannon_divergence():
    student, teacher = both()
    q, p = student.softmax(1), teacher.softmax(1)
    entropy = torch.special.entr
    divergence = entropy((p + q) / 2).sum(1) - (entropy(p).sum(1) + entropy(q).sum(1)) / 2
    torch.testing.assert_close(ssld(student, teacher, "paper"), divergence.mean())
    term = DivergenceKD(JSD())(Outputs(student), Outputs(teacher), torch.empty(0))
    torch.testing.assert_close(SSLD(mode="paper")(Outputs(student), Outputs(teacher), torch.empty(0)), term)


@MODES
def test_it_is_symmetric_and_nothing_for_a_student_that_equals_its_teacher(mode):
    student, teacher = both()
    torch.testing.assert_close(ssld(student, teacher, mode), ssld(teacher, student, mode))
    value = ssld(student, student.detach() + 1, mode)
    (gradient,) = torch.autograd.grad(value, student)
    torch.testing.assert_close(value, torch.zeros_like(value))
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))


def test_a_student_that_is_certain_and_wrong_learns_in_mode_code_alone():
    teacher = torch.tensor([[20.0, 0.0]], dtype=torch.float64)
    student = teacher.flip(1).requires_grad_()
    gradients = {m: torch.autograd.grad(ssld(student, teacher, m), student)[0].abs().max() for m in ("paper", "code")}
    assert gradients["paper"] < 1e-6
    assert gradients["code"] > 0.4
    assert ssld(student, teacher, "paper") < torch.tensor(2.0).log()
    assert ssld(student, teacher, "code") > 19


@MODES
def test_labels_are_not_asked(mode):
    student, teacher = both()
    value = SSLD(mode=mode)(Outputs(student), Outputs(teacher), None)
    torch.testing.assert_close(value, ssld(student, teacher, mode))


@MODES
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_finite_at_extreme_logits(mode, dtype):
    far = 1e4 * torch.eye(4, 6)
    for logits in (far, -far, far.roll(1, 1), 0 * far):
        student = logits.to(dtype, copy=True).requires_grad_()
        value = ssld(student, far.to(dtype), mode)
        (gradient,) = torch.autograd.grad(value, student)
        assert value.isfinite()
        assert gradient.isfinite().all()


@MODES
def test_gradient(mode):
    student, teacher = both()
    assert torch.autograd.gradcheck(lambda s: ssld(s, teacher, mode), student)


def test_an_unknown_mode():
    with pytest.raises(InputError, match="mode must be 'paper' or 'code', got 'js'"):
        SSLD(mode="js")
