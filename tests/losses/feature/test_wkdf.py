import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import WKDF
from lit_distill.losses.feature import gaussian_gaps, wkdf


def maps(size=(6, 4)):
    student = torch.randn(3, 4, *size, dtype=torch.float64, requires_grad=True)
    return student, 1 + 2 * torch.randn(3, 4, *size, dtype=torch.float64)


def test_distance_between_gaussians():
    # of two Gaussians with diagonal covariance, where the mean counts once and nothing is added to variances
    student, teacher = maps()
    expected = 0.0
    for s, t in zip(student.reshape(12, -1), teacher.reshape(12, -1), strict=True):
        expected += ((s.mean() - t.mean()) ** 2 + (s.std() - t.std()) ** 2) / 3
    torch.testing.assert_close(wkdf(student, teacher, mean_weight=1.0, eps=1e-15), expected)


def test_the_weight_is_that_of_the_means():
    student, teacher = maps()
    means, deviations = gaussian_gaps(student, teacher)
    torch.testing.assert_close(wkdf(student, teacher, mean_weight=8.0), 8 * means + deviations)
    shifted, _ = gaussian_gaps(student + 3, student)
    torch.testing.assert_close(shifted, torch.tensor(4 * 9.0, dtype=torch.float64))
    assert gaussian_gaps(student + 3, student)[1] < 1e-20


@pytest.mark.parametrize("size", [(6, 4), (8, 8)])
def test_cells_of_a_grid_are_maps_of_their_own(size):
    student, teacher = maps(size)
    below, right = size[0] // 2, size[1] // 2
    cells = []
    for rows in (slice(below), slice(below, None)):
        for columns in (slice(right), slice(right, None)):
            cells.append((student[:, :, rows, columns], teacher[:, :, rows, columns]))
    expected = torch.stack([wkdf(s, t) for s, t in cells]).mean()
    torch.testing.assert_close(wkdf(student, teacher, grid=2), expected)


def test_cells_that_overlap_are_those_of_adaptive_pooling():
    student, teacher = maps((7, 5))
    means, _ = gaussian_gaps(student, teacher, grid=3)
    s, t = (F.adaptive_avg_pool2d(x, 3) for x in (student, teacher))
    torch.testing.assert_close(means, (s - t).square().sum(1).mean())


def test_places_do_not_matter_within_a_cell():
    student, teacher = maps()
    shuffled = student.flatten(2)[:, :, torch.randperm(24)].unflatten(2, (8, 3))
    torch.testing.assert_close(wkdf(shuffled, teacher), wkdf(student, teacher))


@pytest.mark.parametrize("grid", [1, 2])
def test_gradient(grid):
    student, teacher = maps()
    assert gradcheck(lambda s: wkdf(s, teacher, grid=grid), student)
    value = wkdf(student, student.detach(), grid=grid)
    (gradient,) = torch.autograd.grad(value, student)
    assert value == 0
    assert gradient.abs().max() == 0


def test_a_constant_channel_has_a_finite_gradient():
    student = torch.zeros(2, 3, 4, 4, requires_grad=True)
    wkdf(student, torch.randn(2, 3, 4, 4)).backward()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("centre", [3.0, 1e4])
def test_a_narrow_channel_far_from_the_origin(centre):
    student, teacher = (centre + 0.01 * centre * torch.randn(2, 3, 8, 8) for _ in range(2))
    exact = gaussian_gaps(student.double(), teacher.double())
    for given, wanted in zip(gaussian_gaps(student, teacher), exact, strict=True):
        torch.testing.assert_close(given.double(), wanted, rtol=1e-3, atol=0)


def test_half_precision_under_autocast():
    student, teacher = ((3 + torch.randn(2, 3, 8, 8)).bfloat16() for _ in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = wkdf(student, teacher)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), wkdf(student.double(), teacher.double()), rtol=1e-4, atol=0)


def test_sum_over_pairs_behind_projectors():
    student = Outputs(torch.zeros(4, 10), {"a": torch.randn(4, 3, 8, 8), "b": torch.randn(4, 17, 6)})
    teacher = Outputs(torch.zeros(4, 10), {"a": torch.randn(4, 5, 4, 4), "b": torch.randn(4, 6, 2, 2)})
    loss = WKDF(layers={"a": "a", "b": "b"}, mean_weight=2.0, eps=1e-3)
    loss.build(student, teacher)
    value = loss(student, teacher, torch.zeros(4))
    tokens = student.features["b"][:, 1:].transpose(1, 2).unflatten(2, (4, 4))
    projected = [net(x) for net, x in zip(loss.projectors, (student.features["a"], tokens), strict=True)]
    assert min(x.min() for x in projected) == 0  # behind a ReLU
    expected = [wkdf(s, teacher.features[name], 2.0, eps=1e-3) for s, name in zip(projected, "ab", strict=True)]
    torch.testing.assert_close(value, sum(expected))
    value.backward()
    assert all(p.grad.isfinite().all() for p in loss.parameters())


def test_bad_input():
    for name, bad, accepted in (
        ("mean_weight", -1.0, "0 or positive"),
        ("grid", 0, "positive"),
        ("eps", 0.0, "positive"),
    ):
        with pytest.raises(InputError, match=f"{name} must be {accepted}, got {bad}"):
            WKDF(**{name: bad})
    with pytest.raises(InputError, match="of the same samples and channels, got"):
        wkdf(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 4, 4))
    with pytest.raises(InputError, match="layers must be maps with more than one position in each cell, got 2 by 2"):
        wkdf(torch.zeros(2, 3, 2, 2), torch.zeros(2, 3, 4, 4), grid=2)
    outputs = Outputs(torch.zeros(2, 10), {"a": torch.zeros(2, 3, 4, 4)})
    with pytest.raises(InputError, match=r"got no build\(\)"):
        WKDF(layers={"a": "a"})(outputs, outputs, torch.zeros(2))
