import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import ITRD
from lit_distill.losses.relational import itrd_correlation, itrd_mutual

LAYERS = {"pool": "pool"}


def vectors(batch=6, width=4, seed=0):
    return torch.randn(batch, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def said(x):
    return Outputs(torch.zeros(len(x), 3), {"pool": x})


def term(student, teacher, **kwargs):
    torch.manual_seed(0)
    loss = ITRD(**{"layers": LAYERS} | kwargs)
    loss.build(said(student), said(teacher))
    return loss.double()


def plain_correlation(s, t, alpha=1.5):
    c = ((s - s.mean(0)) / s.std(0) * (t - t.mean(0)) / t.std(0)).mean(0)
    return (c - 1).abs().pow(2 * alpha).sum().log2()


def plain_mutual(s, t):
    s, t = (F.normalize(x) @ F.normalize(x).T for x in (s, t))
    both = s * t
    return ((s / s.trace()) ** 2 - (both / both.trace()) ** 2).sum()


def test_the_formulas():
    s, t = vectors(), vectors(seed=1)
    torch.testing.assert_close(itrd_correlation(s, t, 1.2), plain_correlation(s, t, 1.2))
    wide = vectors(width=7, seed=2)
    torch.testing.assert_close(itrd_mutual(s, wide), plain_mutual(s, wide))


def test_correlation_knows_no_shift_and_no_scale_of_a_channel():
    s, t = vectors(), vectors(seed=1)
    scale = torch.rand(4).double() + 0.5
    torch.testing.assert_close(itrd_correlation(scale * s + 3, t), itrd_correlation(s, t))
    assert itrd_correlation(-s, s) > itrd_correlation(s, t) > itrd_correlation(s, s)


@pytest.mark.parametrize("batch", [2, 8, 64])
def test_correlation_is_least_where_all_channels_correlate(batch):
    s = vectors(batch).requires_grad_()
    value = itrd_correlation(2 * s + 1, s.detach(), alpha=1.5)
    torch.testing.assert_close(value, 2 - 3 * torch.tensor(batch).double().log2())
    (gradient,) = torch.autograd.grad(value, s)
    assert gradient.abs().max() < 1e-6


def test_mutual_lies_between_a_teacher_that_sees_no_difference_and_one_that_sees_nothing_alike():
    s = vectors()
    squares = (F.normalize(s) @ F.normalize(s).T).square()
    assert itrd_mutual(s, torch.ones(6, 1).double()) < 1e-11  # 1e-12 is added to norms
    alone = (squares.sum() - squares.trace()) / 36
    torch.testing.assert_close(itrd_mutual(s, torch.eye(6).double()), alone)
    assert 0 < itrd_mutual(s, vectors(seed=1)) < alone


def test_mutual_knows_directions_alone():
    s, t = vectors(), vectors(width=7, seed=1)
    turn = torch.linalg.qr(vectors(4, 4, seed=2)).Q
    lengths = torch.rand(6, 1).double() + 0.5
    torch.testing.assert_close(itrd_mutual(lengths * s @ turn, 3 * t), itrd_mutual(s, t))


def test_gradcheck():
    s, t = vectors().requires_grad_(), vectors(seed=1)
    assert gradcheck(lambda x: itrd_correlation(x, t), s)
    assert gradcheck(lambda x: itrd_mutual(x, t), s)


def test_the_sum_and_which_part_takes_the_map():
    for width in (4, 7):
        s, t = vectors(), vectors(width=width, seed=1)
        loss = term(s, t, correlation_weight=3.0, mutual_weight=0.5)
        mapped = loss.embeddings[0](s)
        similar = s if width == 4 else mapped
        expected = 3 * itrd_correlation(mapped, t) + 0.5 * itrd_mutual(similar, t)
        torch.testing.assert_close(loss(said(s), said(t), None), expected)


@pytest.mark.parametrize("student", [torch.zeros(4, 3), torch.ones(4, 3), 1e4 * torch.eye(4)[:, :3], torch.ones(1, 3)])
def test_constant_channels_extreme_and_single_samples(student):
    s = student.clone().requires_grad_()
    t = torch.randn(len(s), 3)
    value = itrd_correlation(s, t) + itrd_mutual(s, t)
    (gradient,) = torch.autograd.grad(value, s)
    assert value.isfinite()
    assert gradient.isfinite().all()


def test_tight_clusters_under_autocast():
    s, t = (3 + 0.01 * vectors(32, 64, seed=seed).float() for seed in (0, 1))
    for function, plain in ((itrd_correlation, plain_correlation), (itrd_mutual, plain_mutual)):
        exact = function(s.double(), t.double())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            given, others = function(s, t), plain(s, t)
        torch.testing.assert_close(given.double(), exact, rtol=1e-3, atol=0)
        if function is itrd_mutual:
            assert abs(others - exact) > 1e-2 * exact  # the check can fail


def test_maps_and_tokens_are_averaged():
    s, t = torch.randn(5, 3, 2, 2).double(), torch.randn(5, 7, 4).double()
    loss = term(s, t)
    torch.testing.assert_close(loss(said(s), said(t), None), loss(said(s.mean((2, 3))), said(t.mean(1)), None))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"correlation_weight": -1.0}, "correlation_weight must be 0 or positive"),
        ({"mutual_weight": -1.0}, "mutual_weight must be 0 or positive"),
        ({"alpha": 0.1}, r"alpha must be at least 0\.5"),
    ],
)
def test_bad_hyperparameters(arguments, message):
    with pytest.raises(InputError, match=message):
        ITRD(**arguments)


def test_not_built_and_other_samples():
    with pytest.raises(InputError, match=r"got no build\(\)"):
        ITRD(layers=LAYERS)(said(vectors()), said(vectors()), None)
    with pytest.raises(InputError, match="vectors of the same samples"):
        itrd_mutual(vectors(3), vectors(4))
