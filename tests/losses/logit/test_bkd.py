import math

import torch

from lit_distill.losses.logit import bkd


def both(batch=6, classes=5):
    generator = torch.Generator().manual_seed(0)
    student, teacher = 2 * torch.randn(2, batch, classes, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def test_class_by_class():
    student, teacher = both()
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        for z, p in zip(s.tolist(), t.softmax(-1).tolist(), strict=True):
            sigmoid = 1 / (1 + math.exp(-z))
            total -= p * math.log(sigmoid) + (1 - p) * math.log(1 - sigmoid)
    torch.testing.assert_close(bkd(student, teacher).item(), total / 30)


def test_best_is_a_sigmoid_that_equals_the_teachers_softmax():
    _, teacher = both()
    best = teacher.softmax(-1).logit().requires_grad_()
    value = bkd(best, teacher)
    (gradient,) = torch.autograd.grad(value, best)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))
    assert value < bkd(teacher, teacher)
