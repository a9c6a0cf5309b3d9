import math

import pytest
import torch
from torch.autograd import gradcheck

from lit_distill.errors import InputError
from lit_distill.losses import (
    JSD,
    TVD,
    AdaptiveKL,
    AlphaBeta,
    Divergence,
    ForwardKL,
    MixedKL,
    NormalisedJSD,
    ReverseKL,
    SkewForwardKL,
    SkewReverseKL,
)
from lit_distill.losses import divergences as d

# exponents of AlphaBeta: inside, at and near every singular case
EXPONENTS = [
    (0.2, 0.7),
    (0.5, 0.5),
    (1.0, 0.0),
    (0.0, 1.0),
    (0.0, 0.0),
    (0.6, 0.0),
    (0.0, 0.6),
    (0.6, -0.6),
    (-0.6, 0.6),
    (2.0, -1.0),
    (1.3, -0.4),
    (-0.5, 1.5),
    (0.7, 1e-7),
]
DIVERGENCES = [
    ForwardKL(),
    ReverseKL(),
    MixedKL(0.3),
    JSD(0.0),
    JSD(0.1),
    JSD(1.0),
    NormalisedJSD(0.0),
    NormalisedJSD(0.1),
    SkewForwardKL(0.0),
    SkewForwardKL(0.1),
    SkewReverseKL(0.0),
    SkewReverseKL(0.1),
    TVD(),
    AdaptiveKL(0.4),
    *(AlphaBeta(alpha, beta) for alpha, beta in EXPONENTS),
]


def name(divergence):
    values = [f"{value:g}" for value in vars(divergence).values() if isinstance(value, float)]
    return "-".join([type(divergence).__name__, *values])


every = pytest.mark.parametrize("divergence", DIVERGENCES, ids=name)


def logits(*shape, seed=0, scale=2.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, *shape, generator=generator, dtype=torch.float64) * scale
    return student.to(dtype).requires_grad_(), teacher.to(dtype)


# the weights of AdaptiveKL carry no gradient, unlike its value: see test_adaptive_weights_carry_no_gradient
@pytest.mark.parametrize("divergence", [x for x in DIVERGENCES if not isinstance(x, AdaptiveKL)], ids=name)
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_gradcheck(divergence, temperature):
    student, teacher = logits(3, 5)
    assert gradcheck(lambda s: divergence(s, teacher, temperature), student)


@every
def test_zero_at_equality_with_zero_gradient(divergence):
    student, _ = logits(3, 5)
    value = divergence(student, student.detach())
    (gradient,) = torch.autograd.grad(value.sum(), student)
    torch.testing.assert_close(value, torch.zeros_like(value), rtol=0, atol=1e-14)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-14)


@every
def test_positive_elsewhere(divergence):
    student, teacher = logits(50, 5)
    assert (divergence(student, teacher) > 1e-4).all()


@every
def test_a_row_does_not_depend_on_the_others(divergence):
    student, teacher = logits(4, 3, 5)
    alone = torch.stack([divergence(s, t) for s, t in zip(student[:, 1], teacher[:, 1], strict=True)])
    torch.testing.assert_close(divergence(student, teacher)[:, 1], alone)


@every
def test_temperature_divides_the_logits(divergence):
    student, teacher = logits(3, 5)
    torch.testing.assert_close(divergence(student, teacher, 3.0), divergence(student / 3, teacher / 3))


@every
def test_a_temperature_a_row(divergence):
    student, teacher = logits(3, 5)
    temperature = torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64, requires_grad=True)
    value = divergence(student, teacher, temperature)
    for row, t in enumerate(temperature.tolist()):
        torch.testing.assert_close(value[row], divergence(student[row], teacher[row], t))
    (gradient,) = torch.autograd.grad(value.sum(), temperature)
    assert (gradient != 0).all()


@every
def test_adding_a_constant_to_the_logits_changes_nothing(divergence):
    student, teacher = logits(3, 5)
    torch.testing.assert_close(divergence(student + 7, teacher - 3), divergence(student, teacher))


@every
def test_no_gradient_is_needed_of_or_given_to_a_teacher_without(divergence):
    student, teacher = logits(3, 5)
    divergence(student, teacher).sum().backward()
    assert student.grad.isfinite().all()
    assert teacher.grad is None


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_finite_at_extreme_logits(divergence, dtype):
    rows = torch.tensor(
        [[1e4, -1e4, 0, 5], [-1e4, 1e4, 3, 1e4], [1e4, 1e4, 1e4, 1e4], [0, 0, 0, 0], [1e4, 0, 0, -1e4]]
    ).to(dtype)
    student = rows.repeat_interleave(len(rows), 0).requires_grad_()
    teacher = rows.repeat(len(rows), 1)
    value = divergence(student, teacher)
    assert value.dtype == torch.float32
    assert value.isfinite().all()
    assert (value >= -1e-6).all()
    (gradient,) = torch.autograd.grad(value.sum(), student)
    assert gradient.dtype == dtype
    assert gradient.isfinite().all()


@every
def test_classes_ruled_out_in_both_do_not_count(divergence):
    student, teacher = logits(3, 5)
    out = torch.full((3, 2), -torch.inf, dtype=torch.float64)
    padded = torch.cat([student, out], 1)
    value = divergence(padded, torch.cat([teacher, out], 1))
    torch.testing.assert_close(value, divergence(student, teacher))
    gradients = [torch.autograd.grad(v.sum(), student)[0] for v in (value, divergence(student, teacher))]
    torch.testing.assert_close(*gradients)


@every
def test_half_precision_is_raised(divergence):
    student, teacher = (x.detach().bfloat16() for x in logits(8, 100))
    exact = divergence(student.double(), teacher.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        given = divergence(student, teacher)
    torch.testing.assert_close(given.double(), exact, rtol=1e-3, atol=1e-6)


@every
def test_shapes_must_agree(divergence):
    with pytest.raises(InputError, match=r"logits must be of one shape, got \(2, 5\) and \(2, 4\)"):
        divergence(torch.zeros(2, 5), torch.zeros(2, 4))
    with pytest.raises(InputError, match=r"got \(2, 5\) and \(5,\)"):
        divergence(torch.zeros(2, 5), torch.zeros(5))


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_temperature_must_be_positive(temperature):
    with pytest.raises(InputError, match="temperature must be positive, got"):
        d.forward_kl(torch.zeros(2, 5), torch.zeros(2, 5), temperature=temperature)


def test_a_temperature_a_row_must_fit():
    with pytest.raises(InputError, match=r"one value a row, \(2,\), got shape \(3,\)"):
        d.forward_kl(torch.zeros(2, 5), torch.zeros(2, 5), temperature=torch.ones(3))


def test_kl_of_two_known_distributions():
    p, q = torch.tensor([0.5, 0.5]), torch.tensor([0.9, 0.1])
    forward = (p * (p / q).log()).sum()
    reverse = (q * (q / p).log()).sum()
    torch.testing.assert_close(d.forward_kl(q.log(), p.log()), forward)
    torch.testing.assert_close(d.reverse_kl(q.log(), p.log()), reverse)
    torch.testing.assert_close(d.tvd(q.log(), p.log()), torch.tensor(0.4))


def same(one, other, **tolerance):
    student, teacher = logits(6, 5)
    torch.testing.assert_close(one(student, teacher), other(student, teacher), **tolerance)


def test_ends_of_the_families():
    same(MixedKL(0.0), ForwardKL())
    same(MixedKL(1.0), ReverseKL())
    same(JSD(0.0), ForwardKL())
    same(JSD(1.0), ReverseKL())
    same(SkewForwardKL(0.0), ForwardKL())
    same(SkewReverseKL(0.0), ReverseKL())
    same(AlphaBeta(1.0, 0.0), ForwardKL())
    same(AlphaBeta(0.0, 1.0), ReverseKL())


def test_families_reach_their_ends():
    close = {"rtol": 1e-3, "atol": 1e-6}
    same(NormalisedJSD(1e-6), ForwardKL(), **close)
    same(NormalisedJSD(1 - 1e-6), ReverseKL(), **close)
    same(SkewForwardKL(1e-6), ForwardKL(), **close)
    same(SkewReverseKL(1e-6), ReverseKL(), **close)


def test_mixtures_by_probabilities():
    student, teacher = logits(6, 5)
    q, p = student.softmax(-1), teacher.softmax(-1)

    def kl(a, b):
        return (a * (a / b).log()).sum(-1)

    m = 0.3 * p + 0.7 * q
    torch.testing.assert_close(d.jsd(student, teacher, beta=0.3), 0.3 * kl(p, m) + 0.7 * kl(q, m))
    torch.testing.assert_close(d.skew_forward_kl(student, teacher, alpha=0.3), kl(p, m))
    torch.testing.assert_close(d.skew_reverse_kl(student, teacher, alpha=0.7), kl(q, m))
    torch.testing.assert_close(d.mixed_kl(student, teacher, reverse_weight=0.3), 0.7 * kl(p, q) + 0.3 * kl(q, p))


def test_jsd_is_symmetric_at_a_half_and_bounded():
    student, teacher = logits(6, 5, scale=20.0)
    value = d.jsd(student, teacher)
    torch.testing.assert_close(value, d.jsd(teacher, student))
    assert (value <= math.log(2)).all()


# beside a singular case the formula itself loses its digits
@pytest.mark.parametrize(("alpha", "beta"), [(a, b) for a, b in EXPONENTS if abs(a * b * (a + b)) > 1e-3])
def test_alpha_beta_is_its_formula(alpha, beta):
    student, teacher = logits(6, 5)
    q, p = student.softmax(-1), teacher.softmax(-1)
    total = alpha + beta
    terms = p**alpha * q**beta - alpha / total * p**total - beta / total * q**total
    torch.testing.assert_close(d.alpha_beta(student, teacher, alpha, beta), -terms.sum(-1) / (alpha * beta))


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 0.6), (0.6, 0.0), (0.6, -0.6), (0.0, 0.0), (1.0, 0.0)])
@pytest.mark.parametrize("step", [(1e-6, 0.0), (0.0, 1e-6), (-1e-6, 0.0), (1e-6, 1e-6)])
def test_alpha_beta_is_continuous(alpha, beta, step):
    near = AlphaBeta(alpha + step[0], beta + step[1])
    same(near, AlphaBeta(alpha, beta), rtol=1e-4, atol=1e-6)


def test_alpha_beta_keeps_its_digits_beside_a_singular_case():
    student, teacher = (x.detach() for x in logits(6, 5))
    for alpha, beta in [(1e-5, 0.8), (0.8, 1e-5), (0.8, -0.8 + 1e-5)]:
        single = d.alpha_beta(student.float(), teacher.float(), alpha, beta)
        torch.testing.assert_close(single.double(), d.alpha_beta(student, teacher, alpha, beta), rtol=1e-4, atol=0)


def test_alpha_beta_swaps_its_arguments_with_its_exponents():
    student, teacher = logits(6, 5)
    torch.testing.assert_close(d.alpha_beta(student, teacher, 1.3, -0.4), d.alpha_beta(teacher, student, -0.4, 1.3))


def test_a_negative_exponent_still_pulls_where_its_power_overflows():
    student = torch.tensor([0.0, 300.0], requires_grad=True)
    for distance in (200.0, 300.0):
        value = d.alpha_beta(student * distance / 300, torch.tensor([distance, 0.0]), alpha=2.0, beta=-1.0)
        (gradient,) = torch.autograd.grad(value, student)
        assert gradient[0] < 0 < gradient[1]
        assert gradient.isfinite().all()


def test_hellinger():
    student, teacher = logits(6, 5)
    hellinger = (teacher.softmax(-1).sqrt() - student.softmax(-1).sqrt()).square().sum(-1) / 2
    torch.testing.assert_close(d.alpha_beta(student, teacher, 0.5, 0.5), 4 * hellinger)


@pytest.mark.parametrize("mu", [0.0, 0.3, 0.6, 1.0])
def test_adaptive_kl_class_by_class(mu):
    student, teacher = logits(20, 7, scale=1.0)
    for s, t in zip(student, teacher, strict=True):
        q, p = s.detach().softmax(-1).tolist(), t.softmax(-1).tolist()
        mass, head, tail = 0.0, 0.0, 0.0
        for place, c in enumerate(sorted(range(7), key=lambda c: -p[c])):
            mass += p[c]
            if place == 0 or mass <= mu:
                head += abs(p[c] - q[c])
            else:
                tail += abs(p[c] - q[c])
        share = head / (head + tail)
        expected = share * d.forward_kl(s, t) + (1 - share) * d.reverse_kl(s, t)
        if mu < 1:  # at 1 the last class is a question of rounding
            torch.testing.assert_close(d.adaptive_kl(s, t, mu=mu), expected)
        else:
            torch.testing.assert_close(d.adaptive_kl(s, t, mu=mu), d.forward_kl(s, t), rtol=0.05, atol=0)


def test_adaptive_weights_carry_no_gradient():
    student, teacher = logits(1, 7)
    value = d.adaptive_kl(student, teacher, mu=0.5)
    forward, reverse = d.forward_kl(student, teacher), d.reverse_kl(student, teacher)
    share = ((value - reverse) / (forward - reverse)).detach()
    constant = share * forward + (1 - share) * reverse
    gradients = [torch.autograd.grad(v.sum(), student)[0] for v in (value, constant)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MixedKL(1.5), r"reverse_weight must be in \[0, 1\], got 1.5"),
        (lambda: JSD(-0.1), r"beta must be in \[0, 1\], got -0.1"),
        (lambda: NormalisedJSD(math.nan), r"beta must be in \[0, 1\], got nan"),
        (lambda: SkewForwardKL(1.0), r"alpha must be in \[0, 1\), got 1.0"),
        (lambda: SkewReverseKL(-1.0), r"alpha must be in \[0, 1\), got -1.0"),
        (lambda: AdaptiveKL(2.0), r"mu must be in \[0, 1\], got 2.0"),
        (lambda: AlphaBeta(alpha=math.inf), "alpha must be a finite number, got inf"),
    ],
)
def test_bad_hyperparameters(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_the_base_class_says_what_is_missing():
    with pytest.raises(NotImplementedError, match="Divergence must implement forward"):
        Divergence()(torch.zeros(1, 2), torch.zeros(1, 2))
