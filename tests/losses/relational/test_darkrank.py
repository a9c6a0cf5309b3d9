import itertools

import pytest
import torch
from torch.autograd import gradcheck

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import DarkRank
from lit_distill.losses.relational import darkrank


def vectors(batch=6, width=4, seed=0):
    return torch.randn(batch, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def log_likelihood(scores):
    """Of the order given, drawn without replacement by the exponentials of scores."""
    return sum(scores[i] - scores[i:].logsumexp(0) for i in range(len(scores)))


def test_order_by_order():
    s, t = vectors(), vectors(width=5, seed=1)
    values = []
    for b in range(6):
        others = sorted((i for i in range(6) if i != b), key=lambda i, b=b: (t[b] - t[i]).norm().item())[:3]
        scores = torch.stack([-2.0 * (s[b] - s[i]).norm() ** 3 for i in others])
        values.append(-log_likelihood(scores))
    torch.testing.assert_close(darkrank(s, t, 2.0, 3.0, 3), torch.stack(values).mean())


def test_the_likelihoods_of_all_orders_sum_to_one():
    scores = vectors(4, 1).squeeze()
    every = [log_likelihood(scores[list(order)]) for order in itertools.permutations(range(4))]
    torch.testing.assert_close(torch.stack(every).exp().sum(), torch.tensor(1.0).double())


def test_certain_where_distances_differ_by_much():
    s = vectors()
    values = [darkrank(factor * s, s, beta=1.0, length=5) for factor in (1, 10, 1000)]
    assert values[0] > values[1] > values[2]
    assert values[2] < 1e-6
    assert darkrank(1000 * s, vectors(seed=1), beta=1.0, length=5) > 10


def test_of_students_alike_that_with_the_teachers_order_is_likeliest():
    s = vectors()
    assert darkrank(s, s) < darkrank(s, vectors(seed=1)) - 0.1


def test_only_distances_count():
    s, t = vectors(), vectors(width=5, seed=1)
    turn = torch.linalg.qr(vectors(4, 4, seed=2)).Q
    torch.testing.assert_close(darkrank(s @ turn + 3, t), darkrank(s, t))
    torch.testing.assert_close(darkrank(s, 7 * t - 2), darkrank(s, t))
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(darkrank(s[order], t[order]), darkrank(s, t))


def test_alpha_is_a_unit_of_length():
    s, t = vectors(), vectors(seed=1)
    torch.testing.assert_close(darkrank(2 * s, t, alpha=1.0), darkrank(s, t, alpha=8.0))


def test_gradcheck():
    s, t = vectors().requires_grad_(), vectors(seed=1)
    assert gradcheck(lambda x: darkrank(x, t, 1.0, 2.0, 3), s)


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_small_collapsed_and_far_samples(batch, scale):
    s = (scale * vectors(batch).float()).requires_grad_()
    value = darkrank(s, vectors(batch, seed=1).float())
    (gradient,) = torch.autograd.grad(value, s)
    assert value.isfinite()
    assert gradient.isfinite().all()
    if batch < 3:
        assert value == 0


def test_tight_cluster_under_autocast():
    s, t = (3 + 1e-3 * vectors(16, 64, seed=seed).float() for seed in (0, 1))
    exact = darkrank(s.double(), t.double(), alpha=1e3, beta=1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        given = darkrank(s, t, alpha=1e3, beta=1.0)
        rounded = darkrank(s.bfloat16(), t.bfloat16(), alpha=1e3, beta=1.0)
    torch.testing.assert_close(given.double(), exact, rtol=1e-3, atol=0)
    assert abs(rounded - exact) > 1e-2 * exact  # the check can fail


def test_maps_are_averaged_and_pairs_are_summed():
    s, t = torch.randn(5, 3, 2, 2), torch.randn(5, 7, 4)
    said = [Outputs(torch.zeros(5, 2), {"a": x, "b": x}) for x in (s, t)]
    value = DarkRank(layers={"a": "a", "b": "b"})(*said, None)
    torch.testing.assert_close(value, 2 * darkrank(s.mean((2, 3)), t.mean(1)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 0.0}, "alpha must be positive"),
        ({"beta": 0.5}, "beta must be at least 1"),
        ({"length": 1}, "length must be at least 2, got 1"),
    ],
)
def test_bad_hyperparameters(arguments, message):
    with pytest.raises(InputError, match=message):
        DarkRank(**arguments)


def test_other_samples():
    with pytest.raises(InputError, match="vectors of the same samples"):
        darkrank(vectors(3), vectors(4))
