"""A Distiller without a teacher: the student is its own."""

import pytest
import torch
from torch import nn
from torch.optim import SGD

from lit_distill import Distiller, presets
from lit_distill.cli.trainer import cli
from lit_distill.errors import InputError
from lit_distill.losses import KD, CrossEntropy, LogitLoss, PairedViews, Standardised, TfKDReg


class Heard(LogitLoss):
    """Keeps what it was told."""

    needs_teacher = False

    def forward(self, student, teacher, target):
        self.student, self.teacher_said = student, teacher
        return (student.logits - teacher.logits).square().sum() + student.logits.sum()


def distiller(**losses):
    torch.manual_seed(0)
    return Distiller(student=nn.Sequential(nn.Linear(4, 3)), losses=losses, optimizer=SGD, input_shape=(4,))


def test_terms_hear_the_students_own_answers_without_gradients():
    term = Heard()
    term.layers = {"0": "0:input"}
    module = distiller(heard=term)
    _, values = module.terms((torch.randn(5, 4), torch.zeros(5, dtype=torch.long)))
    assert torch.equal(term.student.logits, term.teacher_said.logits)
    assert term.student.logits.requires_grad
    assert not term.teacher_said.logits.requires_grad
    assert not any(value.requires_grad for value in term.teacher_said.features.values())
    assert {"0", "0:input"} <= term.teacher_said.features.keys()
    values["heard"].backward()
    # d/dz of (z - sg z)^2 + z is 1 for each of the five samples
    assert torch.equal(module.student[0].bias.grad, torch.full((3,), 5.0))


@pytest.mark.parametrize("term", [KD(), Standardised(KD())], ids=["plain", "modified"])
def test_a_term_that_needs_a_teacher_says_so(term):
    with pytest.raises(InputError, match=r"teacher: not given, and losses\.kd \(\w+\) learns from one"):
        distiller(ce=CrossEntropy(), kd=term)


def test_terms_that_need_none_train():
    module = distiller(ce=CrossEntropy(), reg=TfKDReg(), smooth=Standardised(TfKDReg()), views=PairedViews(KD()))
    _, values = module.terms((torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])))
    assert values.keys() == {"ce", "reg", "smooth", "views"}
    assert all(value.isfinite() and value.requires_grad for value in values.values())
    assert module.networks_to_shard() == [module.student]
    with pytest.raises(InputError, match="teacher: not given to this Distiller"):
        module.forward_teacher(torch.randn(2, 4))


def test_the_report_has_no_teacher(workshop, capsys):
    preset = presets.find("tfkd_reg_digits")
    cli(["fit", "--config", str(preset), "--trainer.max_epochs=1", "--baseline.path=null"])
    printed = capsys.readouterr().out
    assert "student" in printed
    assert "Compression" not in printed
    assert "│ teacher" not in printed


@pytest.mark.parametrize("name", ["loss", "acc"])
def test_no_term_can_have_the_name_of_what_is_logged(name):
    with pytest.raises(InputError, match=rf"losses: '{name}' is logged for the whole objective"):
        distiller(**{name: CrossEntropy()})
