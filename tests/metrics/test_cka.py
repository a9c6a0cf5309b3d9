from itertools import permutations

import pytest
import torch

from lit_distill.errors import InputError
from lit_distill.metrics import CKA
from lit_distill.metrics.cka import cka, hsic


def four_point_hsic(x, y):
    """The estimate from its definition: the mean over ordered quadruples of distinct samples."""
    k, el = x @ x.T, y @ y.T
    quadruples = list(permutations(range(len(x)), 4))
    total = sum(k[i, j] * (el[i, j] + el[q, r] - 2 * el[i, q]) for i, j, q, r in quadruples)
    return total / len(quadruples)


def biased_cka(x, y):
    """Kornblith et al., eq. 5, on the whole matrix: cross-covariances of centred features."""
    x, y = x - x.mean(0), y - y.mean(0)
    return (y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1024, 6, generator=generator, dtype=torch.float64)
    y = x @ torch.randn(6, 9, generator=generator, dtype=torch.float64)
    return x, y + 3 * torch.randn(1024, 9, generator=generator, dtype=torch.float64) + 5


def test_hsic_equals_its_definition(features):
    x, y = features[0][:7], features[1][:7]
    torch.testing.assert_close(hsic(x, y), four_point_hsic(x, y))
    torch.testing.assert_close(hsic(x, x), four_point_hsic(x, x))


def test_one_batch_of_everything_tends_to_the_exact_value(features):
    x, y = features
    # the two estimates differ by O(1/n)
    assert abs(cka(x, y) - biased_cka(x, y)) < 10 / len(x)
    assert abs(cka(x[:32], y[:32]) - biased_cka(x[:32], y[:32])) > 10 / len(x)


def test_value_does_not_depend_on_the_batch_size(features):
    x, y = features
    exact = biased_cka(x, y)
    for size in (8, 32, 256):
        metric = CKA()
        biased = []
        for part_x, part_y in zip(x.split(size), y.split(size), strict=True):
            metric.update(part_x, part_y)
            biased.append(biased_cka(part_x, part_y))
        error = abs(metric.compute() - exact)
        assert error < 0.02, size
        assert error < abs(torch.stack(biased).mean() - exact), size


def test_is_one_with_itself_and_with_rotated_scaled_shifted_features(features):
    x, _ = features
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    torch.testing.assert_close(cka(x, x).item(), 1.0)
    torch.testing.assert_close(cka(x, 0.01 * x @ rotation + 100).item(), 1.0)


def test_invariances_to_maps_of_either_side(features):
    x, y = features
    rotation = torch.linalg.qr(torch.randn(9, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    torch.testing.assert_close(cka(x, 7 * y @ rotation), cka(x, y))
    torch.testing.assert_close(cka(y, x), cka(x, y))
    stretched = x * torch.tensor([100.0, 1, 1, 1, 1, 1])  # not isotropic
    assert abs(cka(stretched, y) - cka(x, y)) > 0.05


def test_unrelated_features_have_none():
    generator = torch.Generator().manual_seed(0)
    metric, biased = CKA(), []
    for _ in range(200):
        x, y = torch.randn(16, 20, generator=generator), torch.randn(16, 30, generator=generator)
        metric.update(x, y)
        biased.append(biased_cka(x, y))
    assert abs(metric.compute()) < 0.02
    assert torch.stack(biased).mean() > 0.5  # what the estimate without correction claims


def test_images_and_half_precision(features):
    x, y = (f[:40].float() for f in features)
    metric = CKA()
    with torch.autocast("cpu", torch.bfloat16):
        metric.update(x.view(40, 2, 1, 3).bfloat16(), y.view(40, 3, 3).bfloat16())
    torch.testing.assert_close(metric.compute(), cka(x.bfloat16().float(), y.bfloat16().float()))


def test_a_large_common_mean_costs_no_digits(features):
    x, y = (f[:256].float() for f in features)
    torch.testing.assert_close(cka(x + 1000, y - 1000), cka(x, y), atol=1e-4, rtol=0)


def test_a_last_batch_too_small_to_count_is_left_out(features):
    x, y = features
    whole, with_tail = CKA(), CKA()
    whole.update(x[:32], y[:32])
    with_tail.update(x[:32], y[:32])
    with_tail.update(x[32:35], y[32:35])
    assert whole.compute() == with_tail.compute()


def test_constant_features_have_no_alignment(features):
    metric = CKA()
    metric.update(features[0], torch.ones(1024, 2))
    assert metric.compute().isnan()


def test_bad_input():
    with pytest.raises(InputError, match="5 samples against 6"):
        CKA().update(torch.zeros(5, 2), torch.zeros(6, 2))
    with pytest.raises(InputError, match="at least 4"):
        cka(torch.zeros(3, 2), torch.zeros(3, 2))
