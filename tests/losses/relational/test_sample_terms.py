"""What holds for every function of the samples of a batch."""

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import CC, PKT, SP
from lit_distill.losses.relational import cc_adjacent, cc_gaussian, pkt, sp
from lit_distill.losses.relational.cosines import cosine_gaps

# the same without what keeps their digits, as others write them


def plain_sp(student, teacher):
    s, t = (F.normalize(x @ x.T) for x in (student, teacher))
    return (s - t).square().sum() / len(s) ** 2


def plain_pkt(student, teacher, eps=1e-7):
    p, q = ((F.normalize(x) @ F.normalize(x).T + 1) / 2 for x in (student, teacher))
    p, q = p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)
    return (q * torch.log((q + eps) / (p + eps))).mean()


def plain_cc(student, teacher):
    s, t = (F.normalize(x) @ F.normalize(x).T for x in (student, teacher))
    s, t = (torch.exp(torch.tensor(-0.8)) * (1 + 0.8 * x + 0.32 * x**2) for x in (s, t))
    return (s - t).square().mean()


PLAIN = {sp: plain_sp, pkt: plain_pkt, cc_gaussian: plain_cc}
relations = pytest.mark.parametrize("term", PLAIN, ids=lambda term: term.__name__)
every = pytest.mark.parametrize("term", [*PLAIN, cc_adjacent], ids=lambda term: term.__name__)


def vectors(batch=6, student=5, teacher=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, student, generator=generator, dtype=torch.float64)
    y = torch.randn(batch, teacher, generator=generator, dtype=torch.float64)
    return x.requires_grad_(), y


def rotation(size):
    return torch.linalg.qr(torch.randn(size, size, dtype=torch.float64)).Q


@relations
@pytest.mark.parametrize("batch", [2, 7])
def test_the_plain_formula(term, batch):
    student, teacher = vectors(batch, 5, 9)
    value, plain = term(student, teacher), PLAIN[term](student, teacher)
    torch.testing.assert_close(value, plain, rtol=1e-6, atol=0)
    gradients = [torch.autograd.grad(x, student)[0] for x in (value, plain)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-12)


@every
def test_gradcheck(term):
    student, teacher = vectors()
    assert gradcheck(lambda s: term(s, teacher), student)


@every
def test_nothing_to_learn_from_oneself(term):
    student, teacher = vectors()
    value = term(student, student.detach())
    (gradient,) = torch.autograd.grad(value, student)
    assert value == 0
    # PKT adds 1e-7 to probabilities
    assert gradient.abs().max() < (1e-8 if term is pkt else 1e-15)
    assert term(student, teacher) > 1e-4


@relations
def test_scale_and_rotation_do_not_matter(term):
    student, teacher = vectors(student=5, teacher=7)
    moved = 3.5 * student @ rotation(5)
    torch.testing.assert_close(term(moved, teacher), term(student, teacher), rtol=1e-6, atol=1e-15)
    wider = torch.cat([student, torch.zeros(6, 3)], 1)
    torch.testing.assert_close(term(wider, teacher), term(student, teacher))


@relations
def test_samples_in_another_order(term):
    student, teacher = vectors()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(term(student[order], teacher[order]), term(student, teacher))
    assert (term(student[order], teacher) - term(student, teacher)).abs() > 1e-4


@pytest.mark.parametrize(("term", "factor"), [(sp, 0.5), (pkt, 0.5), (cc_gaussian, 1.0)])
def test_value_of_a_batch_seen_twice(term, factor):
    student, teacher = vectors()
    twice = term(torch.cat([student, student]), torch.cat([teacher, teacher]))
    torch.testing.assert_close(twice, factor * term(student, teacher), rtol=1e-5, atol=0)


@every
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_small_collapsed_and_empty_samples(term, batch):
    torch.manual_seed(0)
    for student in (torch.ones(batch, 4), torch.zeros(batch, 4), torch.eye(4)[:batch] - torch.eye(4)[0]):
        student.requires_grad_()
        value = term(student, torch.randn(batch, 4))
        (gradient,) = torch.autograd.grad(value, student)
        assert value.isfinite()
        assert gradient.isfinite().all()
        assert gradient.abs().max() < 1e4
        if batch == 1 and student.any():
            assert value.abs() < 1e-12


@relations
@pytest.mark.parametrize("spread", [0.5, 0.05, 0.005])
@pytest.mark.parametrize("half", [False, True])
def test_tight_cluster_far_from_the_origin_under_autocast(term, spread, half):
    generator = torch.Generator().manual_seed(0)
    centre = torch.randn(256, generator=generator) * 3
    student, teacher = (centre + spread * torch.randn(32, 256, generator=generator) for _ in range(2))
    if half:  # what a network gives under autocast: rounded, and to be compared as it is
        student, teacher = student.bfloat16(), teacher.bfloat16()
    exact = PLAIN[term](student.double(), teacher.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        given, plain = term(student, teacher), PLAIN[term](student, teacher)
    assert given.dtype == torch.float32
    torch.testing.assert_close(given.double(), exact, rtol=1e-3, atol=0)
    assert abs(plain - exact) > 1e-2 * exact  # the check can fail


@relations
def test_gradient_in_a_tight_cluster(term):
    generator = torch.Generator().manual_seed(0)
    centre = torch.randn(256, generator=generator) * 3
    student, teacher = (centre + 0.05 * torch.randn(32, 256, generator=generator) for _ in range(2))
    student.requires_grad_()
    exact = student.detach().double().requires_grad_()
    (wanted,) = torch.autograd.grad(PLAIN[term](exact, teacher.double()), exact)
    (given,) = torch.autograd.grad(term(student, teacher), student)
    assert (given - wanted).norm() < 1e-4 * wanted.norm()


def test_gaps_are_one_minus_cosines():
    x, _ = vectors(8, 5)
    torch.testing.assert_close(cosine_gaps(x), 1 - torch.cosine_similarity(x[None], x[:, None], dim=2))
    with_zero = torch.cat([x, torch.zeros(1, 5)])
    torch.testing.assert_close(cosine_gaps(with_zero)[-1], torch.ones(9).double())
    assert (cosine_gaps(torch.cat([x, -x])).max() - 2).abs() < 1e-12


@every
@pytest.mark.parametrize("shapes", [((4, 3), (5, 3)), ((4,), (4,))])
def test_other_shapes_are_refused_in_one_line(term, shapes):
    with pytest.raises(InputError, match=r"must be \(B, .* of the same samples, got [^\n]*$"):
        term(*map(torch.zeros, shapes))


def outputs(**features):
    return Outputs(torch.zeros(4, 10), features)


@pytest.mark.parametrize(("kind", "function"), [(PKT, pkt), (CC, cc_gaussian)])
def test_maps_and_tokens_are_averaged_and_pairs_summed(kind, function):
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 3, 8, 8), torch.randn(4, 16, 5)
    loss = kind(layers={"map": "tokens", "vector": "tokens"})
    assert not list(loss.parameters())
    value = loss(outputs(map=student, vector=student[:, :, 0, 0]), outputs(tokens=teacher), torch.zeros(4))
    t = teacher.mean(1)
    torch.testing.assert_close(value, function(student.mean((2, 3)), t) + function(student[:, :, 0, 0], t))


def test_maps_are_flattened_for_sp():
    student, teacher = torch.randn(4, 3, 8, 8), torch.randn(4, 16, 5)
    loss = SP(layers={"map": "tokens", "vector": "tokens"})
    value = loss(outputs(map=student, vector=student[:, :, 0, 0]), outputs(tokens=teacher), torch.zeros(4))
    t = teacher.flatten(1)
    torch.testing.assert_close(value, sp(student.flatten(1), t) + sp(student[:, :, 0, 0], t))


@pytest.mark.parametrize("kind", [PKT, CC])
def test_half_precision_maps_are_pooled_in_float32(kind):
    generator = torch.Generator().manual_seed(0)
    student, teacher = ((3 + 0.05 * torch.randn(16, 64, 8, 8, generator=generator)).bfloat16() for _ in range(2))
    loss = kind(layers={"map": "map"})
    exact = loss(outputs(map=student.double()), outputs(map=teacher.double()), torch.zeros(16))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        given = loss(outputs(map=student), outputs(map=teacher), torch.zeros(16))
    torch.testing.assert_close(given.double(), exact, rtol=1e-2, atol=0)


@pytest.mark.parametrize("kind", [SP, PKT, CC])
def test_one_process_gathers_nothing(kind):
    student, teacher = outputs(layer=torch.randn(4, 3, 8, 8)), outputs(layer=torch.randn(4, 3, 8, 8))
    values = [kind(gather=g, layers={"layer": "layer"})(student, teacher, torch.zeros(4)) for g in (False, True)]
    assert values[0] == values[1]
