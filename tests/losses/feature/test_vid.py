import math

import pytest
import torch
from torch.autograd import gradcheck
from torch.distributions import Normal
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import VID
from lit_distill.losses.feature import vid
from lit_distill.losses.feature.vid import GaussianRegressor


def outputs(**features):
    return Outputs(torch.zeros(len(next(iter(features.values()))), 10), features)


def built(student, teacher, **given):
    torch.manual_seed(0)
    loss = VID(layers=dict(zip(student.features, teacher.features, strict=True)), **given)
    loss.build(student, teacher)
    return loss


def test_negative_log_likelihood_without_its_constant():
    mean, teacher = torch.randn(2, 4, 3, 5, 5)
    variance = torch.tensor([0.1, 1.0, 7.0])
    density = Normal(mean, variance.sqrt()[:, None, None]).log_prob(teacher)
    torch.testing.assert_close(vid(mean, teacher, variance), -density.mean() - math.log(2 * math.pi) / 2)


def test_the_best_variance_is_the_mean_squared_error_of_each_channel():
    mean, teacher = torch.randn(2, 4, 3, 5, 5, dtype=torch.float64)
    best = (mean - teacher).square().mean((0, 2, 3)).requires_grad_()
    (gradient,) = torch.autograd.grad(vid(mean, teacher, best), best)
    assert gradient.abs().max() < 1e-15
    assert all(vid(mean, teacher, factor * best) > vid(mean, teacher, best) for factor in (0.8, 1.2))


def test_gradcheck():
    mean, teacher = torch.randn(2, 2, 3, 4, 4, dtype=torch.float64)
    variance = torch.tensor([0.1, 1.0, 7.0], dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda m, v: vid(m, teacher, v), (mean.requires_grad_(), variance))


@pytest.mark.parametrize("variance", [1e-3, 1.0, 5.0, 50.0])
def test_variance_before_training(variance):
    _, given = GaussianRegressor(3, 5, variance)(torch.randn(2, 3, 4, 4))
    torch.testing.assert_close(given, torch.full((5,), variance), rtol=1e-4, atol=0)


def test_no_variance_is_below_eps():
    regressor = GaussianRegressor(3, 5, eps=1e-2)
    torch.nn.init.constant_(regressor.rho, -1e4)
    torch.testing.assert_close(regressor(torch.randn(2, 3, 4, 4))[1], torch.full((5,), 1e-2))


def test_variances_are_trained_and_saved():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 1, 4, 4, generator=generator)
    noise = torch.randn(8, 4, 4, 4, generator=generator)
    student, teacher = outputs(a=x), outputs(b=torch.cat([x.expand_as(noise), noise], 1))  # half can be predicted
    loss = built(student, teacher)
    assert "regressors.0.rho" in loss.state_dict()
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        loss(student, teacher, torch.zeros(8)).backward()
        optimizer.step()
    mean, variance = loss.regressors[0](x)
    error = (mean - teacher.features["b"]).square().mean((0, 2, 3))
    assert variance[:4].max() < 0.2 * variance[4:].min()
    torch.testing.assert_close(variance, error, rtol=0.5, atol=0.05)


@pytest.mark.parametrize("sizes", [(8, 4), (4, 8), (7, 7)])
def test_the_larger_map_is_averaged(sizes):
    student, teacher = (outputs(a=torch.randn(4, c, s, s)) for c, s in zip((3, 5), sizes, strict=True))
    loss = built(student, teacher)
    small = [F.adaptive_avg_pool2d(x.features["a"], min(sizes)) for x in (student, teacher)]
    mean, variance = loss.regressors[0](small[0])
    torch.testing.assert_close(loss(student, teacher, torch.zeros(4)), vid(mean, small[1], variance))


def test_sum_over_pairs():
    student = outputs(a=torch.randn(4, 3, 8, 8), b=torch.randn(4, 6))
    teacher = outputs(c=torch.randn(4, 5, 8, 8), d=torch.randn(4, 7))
    loss = built(student, teacher)
    expected = 0
    for regressor, (s, t) in zip(loss.regressors, loss.pairs(student, teacher), strict=True):
        s, t = (x if x.dim() == 4 else x[:, :, None, None] for x in (s, t))
        mean, variance = regressor(s)
        expected = expected + vid(mean, t, variance)
    torch.testing.assert_close(loss(student, teacher, torch.zeros(4)), expected)


def test_messages():
    with pytest.raises(InputError, match=r"eps must be positive, got 0"):
        VID(layers={"a": "a"}, eps=0.0)
    with pytest.raises(InputError, match=r"variance must be larger than eps, 0\.1, got 0\.1"):
        VID(layers={"a": "a"}, eps=0.1, variance=0.1)
    with pytest.raises(InputError, match="maps must be of one shape"):
        vid(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 5), torch.ones(3))
