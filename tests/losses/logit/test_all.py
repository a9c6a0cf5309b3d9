"""What holds for every term on logits alone."""

import inspect

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import LogitLoss, logit

CLASSES = 7


def plain(thing):
    """Can it be made without arguments, and does it ask for no features?"""
    if not (inspect.isclass(thing) and issubclass(thing, LogitLoss)):
        return False
    required = [p for p in inspect.signature(thing).parameters.values() if p.default is p.empty]
    return not [p for p in required if p.kind is not p.VAR_KEYWORD] and not thing().layers


TERMS = [thing for thing in vars(logit).values() if plain(thing)]
every_term = pytest.mark.parametrize("kind", TERMS)
# numbers of the student that no gradient flows through, which a numerical gradient cannot know
HELD = (logit.WSLD,)
WITHOUT_TEACHER = (logit.TfKDReg,)


def terms_but(*excepted):
    return pytest.mark.parametrize("kind", [kind for kind in TERMS if kind not in excepted])


def made(kind, classes=CLASSES):
    """The term, after it met a student and a teacher."""
    torch.manual_seed(0)
    loss, networks = kind(), [nn.Linear(5, classes) for _ in range(2)]
    loss.attach(*networks)
    loss.build(*(Outputs(network(torch.zeros(2, 5))) for network in networks))
    return loss


def both(batch=8, classes=CLASSES, scale=2.0):
    generator = torch.Generator().manual_seed(0)
    student, teacher = scale * torch.randn(2, batch, classes, generator=generator, dtype=torch.float64)
    return student, teacher, torch.arange(batch) % classes


def call(loss, student, teacher, target):
    return loss(Outputs(student), Outputs(teacher), target)


def test_terms_are_found():
    assert len(TERMS) > 2


@every_term
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_finite_at_extreme_logits(kind, dtype):
    loss = made(kind)
    far = 1e4 * torch.tensor([[1, -1, 0, 1, -1, 0, 0], [-1, 1, 1, -1, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0], [0.0] * 7])
    for student in (far, -far, far.roll(1, 1), torch.zeros_like(far)):
        student = student.to(dtype, copy=True).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
            value = call(loss, student, far.to(dtype), torch.tensor([0, 1, 2, 3]))
        (gradient,) = torch.autograd.grad(value, student)
        assert value.isfinite()
        assert gradient.isfinite().all()


@every_term
def test_half_precision_is_raised(kind):
    loss = made(kind)
    student, teacher, target = both()
    student, teacher = student.bfloat16(), teacher.bfloat16()
    exact = call(loss.double(), student.double(), teacher.double(), target)
    loss = made(kind)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        given = call(loss, student, teacher, target)
    assert given.dtype is torch.float32
    torch.testing.assert_close(given.double(), exact, rtol=1e-4, atol=1e-6)


@terms_but(*HELD)
def test_gradient(kind):
    loss = made(kind).double()
    student, teacher, target = both(batch=4)
    assert torch.autograd.gradcheck(lambda s: call(loss, s, teacher, target), student.requires_grad_())


@terms_but(*(kind for kind in TERMS if hasattr(kind(), "gather")))
def test_mean_over_the_batch(kind):
    loss = made(kind).double()
    student, teacher, target = both()
    whole = call(loss, student, teacher, target)
    parts = [call(loss, student[i::2], teacher[i::2], target[i::2]) for i in range(2)]
    torch.testing.assert_close(sum(parts) / 2, whole)


@every_term
def test_the_order_of_samples_does_not_matter(kind):
    loss = made(kind).double()
    student, teacher, target = both()
    order = torch.tensor([3, 1, 2, 0, 7, 5, 6, 4])  # where a batch holds two views, of both alike
    value = call(loss, student, teacher, target)
    torch.testing.assert_close(call(loss, student[order], teacher[order], target[order]), value)


@every_term
def test_a_mixed_label_counts_as_its_likeliest_class(kind):
    loss = made(kind).double()
    student, teacher, target = both()
    one_hot = F.one_hot(target, CLASSES).double()
    hard = call(loss, student, teacher, target)
    torch.testing.assert_close(call(loss, student, teacher, one_hot), hard)


@terms_but(*WITHOUT_TEACHER)
def test_classes_must_agree(kind):
    student, _, target = both()
    with pytest.raises(InputError, match=r"\(8, 7\).*\(8, 5\)"):
        call(made(kind).double(), student, student[:, :5], target)


@every_term
def test_two_samples_and_two_classes(kind):
    loss = made(kind, classes=2).double()
    student, teacher, target = both(batch=2, classes=2)
    student.requires_grad_()
    value = call(loss, student, teacher, target)
    (gradient,) = torch.autograd.grad(value, student)
    assert value.shape == ()
    assert gradient.isfinite().all()
