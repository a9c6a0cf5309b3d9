import pytest
import torch
from torch.nn import functional as F

from lit_distill.errors import InputError
from lit_distill.losses import PLD
from lit_distill.losses.logit import pld
from lit_distill.losses.logit.pld import ranking

TARGET = torch.tensor([0, 1, 2, 3, 4, 0])


def both(batch=6, classes=5):
    generator = torch.Generator().manual_seed(0)
    student, teacher = 2 * torch.randn(2, batch, classes, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def test_choice_by_choice():
    student, teacher = both()
    total = 0.0
    for s, t, y in zip(student, teacher, TARGET.tolist(), strict=True):
        left = [y, *sorted((c for c in range(5) if c != y), key=lambda c, t=t: -t[c])]
        weights = (t / 2).softmax(-1)
        while left:
            total -= weights[left[0]] * s[left].log_softmax(-1)[0]
            left = left[1:]
    torch.testing.assert_close(pld(student, teacher, TARGET, temperature=2.0), total / 6)


def test_the_label_is_first_even_if_the_teacher_ranks_it_last():
    _, teacher = both()
    order = ranking(teacher, teacher.argmin(-1))
    assert torch.equal(order[:, 0], teacher.argmin(-1))
    assert torch.equal(order.sort(-1).values, torch.arange(5).expand(6, 5))
    later = teacher.gather(-1, order[:, 1:])
    assert (later.diff(dim=-1) < 0).all()


def test_a_teacher_certain_of_the_label_is_cross_entropy():
    student, _ = both()
    certain = 1e3 * F.one_hot(TARGET, 5).double()
    torch.testing.assert_close(pld(student, certain, TARGET), F.cross_entropy(student, TARGET))


def test_a_hot_teacher_weighs_all_choices_alike():
    # the likelihood of one of 5! rankings: those of all rankings add up to 1
    student, _ = both(batch=1)
    orders = torch.cartesian_prod(*[torch.arange(5)] * 5)
    orders = orders[(orders.sort(-1).values == torch.arange(5)).all(-1)]
    teachers = (-orders.argsort(-1)).double()
    students = student.expand(len(orders), 5)
    losses = [pld(s[None], t[None], o[:1], temperature=1e9) for s, t, o in zip(students, teachers, orders, strict=True)]
    torch.testing.assert_close((-5 * torch.stack(losses)).exp().sum().item(), 1.0, rtol=1e-6, atol=0)


def test_shifted_logits_are_the_same_and_mixed_ones_no_worse():
    student, teacher = both()
    value = pld(student, teacher, TARGET)
    torch.testing.assert_close(pld(student + 7.0, teacher, TARGET), value)
    other = student.detach().roll(1, 0)
    middle = pld((student + other) / 2, teacher, TARGET)
    assert middle < (value + pld(other, teacher, TARGET)) / 2


def test_equal_logits_of_the_teacher_keep_their_order():
    assert ranking(torch.zeros(1, 4), torch.tensor([2])).tolist() == [[2, 0, 1, 3]]


def test_bad_hyperparameters():
    with pytest.raises(InputError, match="temperature must be positive, got 0"):
        PLD(temperature=0.0)
