import pytest
import torch

from lit_distill.errors import InputError
from lit_distill.losses import DKD, KD, Standardised
from lit_distill.losses.modifiers import standardised

from .common import both, call, kd


def test_mean_and_unbiased_deviation():
    student, *_ = both()
    z = standardised(student)
    torch.testing.assert_close(z.mean(-1), torch.zeros(8).double())
    torch.testing.assert_close(z.square().sum(-1) / (student.shape[-1] - 1), torch.ones(8).double())


@pytest.mark.parametrize("term", [KD, DKD])
def test_neither_shift_nor_scale_of_a_sample_matters(term):
    student, teacher, target = both()
    shift, scale = torch.randn(2, 8, 1, dtype=torch.float64)
    loss = Standardised(term())
    value = call(loss, student, teacher, target)
    torch.testing.assert_close(call(loss, student * scale.exp() + shift, teacher, target), value)
    torch.testing.assert_close(call(loss, student, teacher * scale.exp() + shift, target), value)


def test_twice_is_once():
    given = both()
    torch.testing.assert_close(call(Standardised(Standardised(kd())), *given), call(Standardised(kd()), *given))


def test_gradient_moves_neither_mean_nor_scale():
    student, teacher, target = both()
    (gradient,) = torch.autograd.grad(call(Standardised(kd()), student, teacher, target), student)
    centred = student - student.mean(-1, keepdim=True)
    torch.testing.assert_close(gradient.sum(-1), torch.zeros(8).double())
    torch.testing.assert_close((gradient * centred).sum(-1), torch.zeros(8).double(), rtol=0, atol=1e-7)


def test_equal_logits_have_a_gradient_that_eps_bounds():
    _, teacher, target = both()
    for eps in (1e-7, 1.0):
        student = torch.zeros_like(teacher, requires_grad=True)
        (gradient,) = torch.autograd.grad(call(Standardised(kd(), eps=eps), student, teacher, target), student)
        assert gradient.abs().max() > 0
        assert gradient.abs().max() < 1 / eps


def test_bad_arguments():
    with pytest.raises(InputError, match=r"eps must be positive, got 0"):
        Standardised(kd(), eps=0.0)
    with pytest.raises(InputError, match=r"logits must be of at least two classes, got shape \(4, 1\)"):
        standardised(torch.zeros(4, 1))
