import math

import pytest
import torch
from torch.autograd import gradcheck

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import TRG
from lit_distill.losses.relational import trg_context, trg_global, trg_graph, trg_local

LAYERS = {"map": "map"}
EVERY = 10**6


def points(*size, seed=0):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(size):
    return torch.linalg.qr(points(size, size, seed=9)).Q


def said(x):
    return Outputs(torch.zeros(len(x), 3), {"map": x})


def term(student=(3, 4, 2, 2), teacher=(3, 6, 2, 2), **kwargs):
    torch.manual_seed(0)
    loss = TRG(**{"layers": LAYERS} | kwargs)
    loss.build(said(torch.zeros(student)), said(torch.zeros(teacher)))
    return loss


# ----------------------------------------------------------------------------------------------------------------------
# The three relations


def test_a_graph_edge_by_edge():
    x, width = points(7, 3), 0.8
    graph = trg_graph(x, neighbours=2, sigma=width)
    for i in range(7):
        squares = {j: (x[i] - x[j]).square().sum() for j in range(7) if j != i}
        nearest = sorted(squares, key=squares.get)[:2]
        for j in range(7):
            expected = torch.exp(-squares[j] / (2 * width)) if j in nearest else 0.0
            torch.testing.assert_close(graph[i, j], torch.as_tensor(expected, dtype=torch.float64))


def test_more_neighbours_than_tokens_are_all_others():
    x = points(5, 3)
    graph = trg_graph(x, neighbours=EVERY)
    torch.testing.assert_close(graph, graph.T)
    assert torch.equal(graph > 0, ~torch.eye(5, dtype=torch.bool))


def test_local_is_the_divergence_of_softmaxed_edges():
    s, t = points(6, 3), points(6, 4, seed=1)
    q, p = (trg_graph(x, 2).softmax(1) for x in (s, t))
    torch.testing.assert_close(trg_local(s, t, 2), (q * (q / p).log()).sum() / 6)


def test_nothing_to_learn_locally_from_the_same_graph():
    s = points(6, 4).requires_grad_()
    value = trg_local(s, s.detach() @ rotation(4) + 3.0, neighbours=3)
    (gradient,) = torch.autograd.grad(value, s)
    assert value.abs() < 1e-14
    assert gradient.abs().max() < 1e-12
    assert trg_local(s, points(6, 4, seed=1), 3) > 1e-3


def test_wide_edges_are_all_one():
    s, t = points(6, 3), points(6, 4, seed=1)
    values = [trg_local(s, t, EVERY, sigma) for sigma in (1.0, 100.0, 1e6)]
    assert values[0] > values[1] > values[2]
    assert values[2] < 1e-9


def test_only_edges_to_neighbours_have_a_gradient():
    s = torch.tensor([[0.0], [1.0], [10.0], [11.5]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(trg_graph(s, 1)[:2].sum(), s)
    assert (gradient[:2] != 0).all()
    assert (gradient[2:] == 0).all()


def test_global_one_by_one():
    s, t = points(5, 4), points(5, 4, seed=1)
    cosines = torch.cosine_similarity(s[:, None], t[None], dim=2) / 0.2
    expected = -torch.stack([cosines[i, i] - cosines[i].logsumexp(0) for i in range(5)]).mean()
    torch.testing.assert_close(trg_global(s, t, 0.2), expected)


def test_a_high_temperature_knows_nothing_and_a_low_one_all():
    t = torch.eye(5, dtype=torch.float64)
    torch.testing.assert_close(trg_global(t, t, 1e6), torch.tensor(math.log(5)).double(), rtol=1e-5, atol=0)
    assert trg_global(t, t, 1e-2) < 1e-12


def test_context_image_by_image():
    s, t = points(2, 5, 4), points(2, 5, 3, seed=1)
    squares = [
        ((a @ a.T / 2.0).softmax(1) - (b @ b.T / 3**0.5).softmax(1)).square().mean() for a, b in zip(s, t, strict=True)
    ]
    torch.testing.assert_close(trg_context(s, t), torch.stack(squares).mean())


def test_context_does_not_know_directions():
    s, t = points(2, 5, 4), points(2, 5, 3, seed=1)
    torch.testing.assert_close(trg_context(s @ rotation(4), t), trg_context(s, t))
    assert trg_context(s @ rotation(4), s) < 1e-25


def test_gradcheck():
    s, t = points(6, 4).requires_grad_(), points(6, 4, seed=1)
    assert gradcheck(lambda x: trg_local(x, t, 2), s)
    assert gradcheck(lambda x: trg_context(x.view(2, 3, 4), t.view(2, 3, 4)), s)
    temperature = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x, v: trg_global(x, t, v), (s, temperature))


@pytest.mark.parametrize("x", [torch.ones(4, 3), torch.zeros(4, 3), torch.ones(1, 3)])
def test_collapsed_and_single_tokens(x):
    x = x.clone().requires_grad_()
    t = torch.randn(len(x), 3)
    value = trg_local(x, t, 2) + trg_global(x, t) + trg_context(x[None], t[None])
    (gradient,) = torch.autograd.grad(value, x)
    assert value.isfinite()
    assert gradient.isfinite().all()
    if len(x) == 1:
        assert value == 0


def test_distances_in_a_tight_cluster_under_autocast():
    generator = torch.Generator().manual_seed(0)
    x = 3 + 1e-3 * torch.randn(16, 64, generator=generator)
    exact = trg_graph(x.double(), EVERY, sigma=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        given = trg_graph(x, EVERY, sigma=1e-5)
        products = x @ x.T
        plain = torch.exp(-(products.diag()[:, None] + products.diag() - 2 * products).float() / 2e-5)
    torch.testing.assert_close(given.double(), exact, rtol=1e-4, atol=1e-12)
    assert not torch.allclose(plain.double().fill_diagonal_(0), exact, rtol=1e-2)


# ----------------------------------------------------------------------------------------------------------------------
# The term


def test_the_sum_of_three():
    s, t = points(3, 4, 2, 2).float(), points(3, 6, 2, 2, seed=1).float()
    parts = [
        term(context_weight=a, local_weight=b, global_weight=c, tokens=4)(said(s), said(t), None)
        for a, b, c in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (2, 3, 5))
    ]
    torch.testing.assert_close(parts[3], 2 * parts[0] + 3 * parts[1] + 5 * parts[2])
    tokens = [x.flatten(2).mT for x in (s, t)]
    torch.testing.assert_close(parts[0], trg_context(*tokens))
    torch.testing.assert_close(parts[1], trg_local(*(torch.nn.functional.normalize(x.flatten(0, 1)) for x in tokens)))


def test_as_many_tokens_are_drawn_from_each_image_and_the_same_of_both():
    s, t = points(3, 4, 3, 3).float(), points(3, 4, 3, 3).float()
    loss = term((3, 4, 3, 3), (3, 4, 3, 3), tokens=2)
    drawn, taught = loss._drawn(*(x.flatten(2).mT for x in (s, t)))
    assert torch.equal(drawn, taught)
    assert len(drawn) == 6
    for image, rows in zip(s.flatten(2).mT, drawn.view(3, 2, 4), strict=True):
        assert all((image == row).all(1).sum() == 1 for row in rows)
        assert not torch.equal(rows[0], rows[1])
    again, _ = loss._drawn(*(x.flatten(2).mT for x in (s, t)))
    assert not torch.equal(again, drawn)


def test_resumed_draws_what_an_uninterrupted_run_does():
    s, t = points(3, 4, 3, 3).float(), points(3, 6, 3, 3, seed=1).float()

    def made():
        return term((3, 4, 3, 3), (3, 6, 3, 3), tokens=2)

    whole = made()
    expected = [whole(said(s), said(t), None) for _ in range(4)]
    first, second = made(), made()
    assert [first(said(s), said(t), None) for _ in range(2)] == expected[:2]
    second.load_state_dict(first.state_dict())
    assert [second(said(s), said(t), None) for _ in range(2)] == expected[2:]
    evaluated = [whole.eval()(said(s), said(t), None) for _ in range(2)]
    assert evaluated[0] == evaluated[1]


def test_maps_and_tokens_of_other_sizes():
    s, t = points(3, 4, 4, 4).float(), points(3, 10, 6).float()  # one token before 3 by 3
    loss = term((3, 4, 4, 4), (3, 10, 6), tokens=EVERY)
    as_map = t[:, 1:].mT.unflatten(2, (3, 3))
    smaller = torch.nn.functional.adaptive_avg_pool2d(s, 3)
    torch.testing.assert_close(loss(said(s), said(t), None), loss(said(smaller), said(as_map), None))


def test_the_linear_map_is_trained():
    loss = term()
    assert len(list(loss.parameters())) == 2
    s = points(3, 4, 2, 2).float().requires_grad_()
    loss(said(s), said(points(3, 6, 2, 2, seed=1).float()), None).backward()
    assert all(p.grad.abs().max() > 0 for p in (*loss.parameters(), s))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"context_weight": -1.0}, "context_weight must be 0 or positive"),
        ({"local_weight": -1.0}, "local_weight must be 0 or positive"),
        ({"global_weight": -1.0}, "global_weight must be 0 or positive"),
        ({"tokens": 0}, "tokens must be at least 1, got 0"),
        ({"neighbours": 0}, "neighbours must be at least 1, got 0"),
        ({"width": 0.0}, "width must be positive, got 0.0"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
    ],
)
def test_bad_hyperparameters(arguments, message):
    with pytest.raises(InputError, match=message):
        TRG(**arguments)


def test_not_built():
    x = said(torch.zeros(2, 3, 2, 2))
    with pytest.raises(InputError, match=r"got no build\(\)"):
        TRG(layers=LAYERS)(x, x, None)
