"""Self-distillation in closed form keeps what its papers say."""

import math
from itertools import pairwise

import pytest
import torch

from lit_distill.errors import InputError
from lit_distill.regression import (
    estimated_xi,
    excess_risk,
    optimal_alpha,
    optimal_xi,
    self_distilled_kernel_ridge,
    self_distilled_ridge,
)

LAMBDAS = torch.logspace(-3, 3, 25, dtype=torch.float64).tolist()


def problem(samples=40, width=6, noise=0.5):
    """Inputs, the truth, and noisy labels."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, width, generator=generator, dtype=torch.float64) * torch.linspace(0.3, 2, width)
    theta = torch.randn(width, generator=generator, dtype=torch.float64)
    y = x @ theta + noise**0.5 * torch.randn(samples, generator=generator, dtype=torch.float64)
    return x, theta, y


def test_every_generation_minimises_its_own_objective():
    x, _, y = problem()
    lam, xis = 3.0, [0.7, -0.4, 1.3]
    for generation in range(1, 4):
        teacher = x @ self_distilled_ridge(x, y, lam, xis[: generation - 1])
        student = self_distilled_ridge(x, y, lam, xis[:generation]).requires_grad_()
        xi, said = xis[generation - 1], x @ student
        objective = xi * (said - teacher).square().sum() + (1 - xi) * (said - y).square().sum()
        objective = objective + lam * student.square().sum()
        (gradient,) = torch.autograd.grad(objective, student)
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-11)


def test_without_generations_or_imitation_it_is_ridge_regression():
    x, _, y = problem()
    ridge = torch.linalg.solve(x.T @ x + 2 * torch.eye(6, dtype=x.dtype), x.T @ y)
    for xis in ([], [0.0], [5.0, 0.0]):
        torch.testing.assert_close(self_distilled_ridge(x, y, 2.0, xis), ridge)


def test_imitation_alone_shrinks_every_direction_once_more_in_each_generation():
    x, _, y = problem()
    lam = 3.0
    eigenvalues, vectors = torch.linalg.eigh(x.T @ x)
    first = vectors.T @ self_distilled_ridge(x, y, lam)
    for generations in (1, 2, 5):
        later = vectors.T @ self_distilled_ridge(x, y, lam, [1.0] * generations)
        shrinkage = (later / first) ** (1 / generations)
        torch.testing.assert_close(shrinkage, eigenvalues / (eigenvalues + lam))
    assert (shrinkage.diff() > 0).all()  # most where the data vary least


def test_kernel_regression_with_a_linear_kernel_is_ridge_regression():
    x, _, y = problem()
    alphas = [0.3, 0.0, 1.2]
    dual = self_distilled_kernel_ridge(x @ x.T, y, 2.0, alphas)
    torch.testing.assert_close(x.T @ dual, self_distilled_ridge(x, y, 2.0, [1 - alpha for alpha in alphas]))


def test_several_outputs_are_as_many_regressions_and_precision_is_kept():
    x, _, y = problem()
    both = torch.stack([y, -2 * y], dim=1)
    one = self_distilled_ridge(x, y, 2.0, [0.5])
    torch.testing.assert_close(self_distilled_ridge(x, both, 2.0, [0.5]), torch.stack([one, -2 * one], dim=1))
    assert self_distilled_ridge(x.float(), y.float(), 2.0).dtype == torch.float32
    assert self_distilled_kernel_ridge((x @ x.T).float(), both.float(), 2.0, [0.5]).shape == (40, 2)


@pytest.mark.parametrize("alpha", [0.35, 0.8])
def test_generations_converge_to_regression_with_amplified_regularisation(alpha):
    x, _, y = problem()
    kernel, lam = x @ x.T, 2.0
    limit = kernel @ self_distilled_kernel_ridge(kernel, y, lam / alpha)
    torch.testing.assert_close(kernel @ self_distilled_kernel_ridge(kernel, y, lam, [alpha] * 200), limit)
    without_labels = kernel @ self_distilled_kernel_ridge(kernel, y, lam, [0.0] * 2000)
    assert without_labels.abs().max() < 1e-3 * limit.abs().max()


def test_the_published_losses_of_the_toy_example():
    """Borup and Andersen's table for the data of Mobahi et al., with the kernel and regularisation of their README."""
    x = torch.arange(11, dtype=torch.float64)[:, None] / 10
    first = [0.38476636465198066, 1.2333967683416893, 1.33232242218057, 0.6920159488889518, -0.29756145531871736]
    then = [-0.24189291901377769, -0.7964485769175675, -0.9616480167034174, -0.49672509509916934]
    y = torch.tensor([*first, *then, -0.3469066003991437, 0.5589512650600734], dtype=torch.float64)
    grid = torch.arange(101, dtype=torch.float64)[:, None] / 100
    kernel, on_grid = ((-80 * torch.cdist(points, x).square()).exp() for points in (x, grid))

    def loss(lam, alphas):
        said = on_grid @ self_distilled_kernel_ridge(kernel, y, lam, alphas)
        return (said - torch.sin(2 * math.pi * grid[:, 0])).square().mean().item()

    published = {
        0.0: [0.16477, 0.15076, 0.14915, 0.15561, 0.16735, 0.18251],
        0.35: [0.16477, 0.15424, 0.15089, 0.14983, 0.14954, 0.14948],
    }
    for alpha, losses in published.items():
        assert [loss(0.2, [alpha] * step) for step in range(6)] == pytest.approx(losses, abs=5e-6)
    assert loss(0.2 / 0.35, []) == pytest.approx(0.14959, abs=5e-6)


def test_optimal_weight_of_the_labels_is_that_of_a_grid_search():
    x, _, y = problem(samples=80)
    train, held_out = slice(40), slice(40, 80)
    kernel, across, lam = x[train] @ x[train].T, x[held_out] @ x[train].T, 8.0
    for before in ([], [0.2]):  # the second generation, and the third

        def predict(alpha, before=before):
            return across @ self_distilled_kernel_ridge(kernel, y[train], lam, [*before, alpha])

        best = optimal_alpha(y[held_out], predict(1.0), predict(0.0))
        grid = (best + torch.linspace(-1, 1, 201)).tolist()
        errors = [(y[held_out] - predict(alpha)).square().mean().item() for alpha in grid]
        assert min(range(201), key=errors.__getitem__) == 100


def test_where_both_students_agree_labels_are_as_good_as_any():
    assert optimal_alpha(torch.ones(3), torch.zeros(3), torch.zeros(3)) == 1.0


@pytest.mark.parametrize("xis", [[], [0.6], [0.9, -0.3, 1.5]])
def test_excess_risk_is_bias_and_variance_of_the_estimator(xis):
    """The estimator is linear in the labels: what it makes of the truth, and of every unit of noise."""
    x, theta, _ = problem()
    bias = x @ self_distilled_ridge(x, x @ theta, 3.0, xis) - x @ theta
    response = x @ self_distilled_ridge(x, torch.eye(40, dtype=x.dtype), 3.0, xis)
    expected = (bias.square().sum() + 0.5 * response.square().sum()) / 40
    assert excess_risk(x, theta, 0.5, 3.0, xis) == pytest.approx(expected.item())


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_no_imitations_are_better_than_the_optimal_ones(steps):
    x, theta, _ = problem()
    best = optimal_xi(x, theta, 0.5, 3.0, steps)
    lowest = excess_risk(x, theta, 0.5, 3.0, best)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        nearby = [xi + 0.3 * torch.randn((), generator=generator).item() for xi in best]
        assert excess_risk(x, theta, 0.5, 3.0, nearby) >= lowest


def test_every_generation_can_help_and_never_hurts():
    x, theta, _ = problem()
    for lam in LAMBDAS:
        risks = [excess_risk(x, theta, 0.5, lam)]
        risks += [excess_risk(x, theta, 0.5, lam, optimal_xi(x, theta, 0.5, lam, steps)) for steps in (1, 2, 3)]
        assert all(later <= earlier * (1 + 1e-9) for earlier, later in pairwise(risks))
        assert risks[-1] < risks[0]


def test_as_many_generations_as_directions_reach_the_best_shrinkage_of_each():
    x, theta, _ = problem(width=4)
    _, sigma, vectors = torch.linalg.svd(x, full_matrices=False)
    signal = (sigma * (vectors @ theta)).square()
    oracle = (signal * 0.5 / (signal + 0.5)).sum().item() / 40
    assert excess_risk(x, theta, 0.5, 3.0, optimal_xi(x, theta, 0.5, 3.0, steps=4)) == pytest.approx(oracle)
    assert excess_risk(x, theta, 0.5, 3.0, optimal_xi(x, theta, 0.5, 3.0, steps=2)) > 1.001 * oracle


def test_repeated_distillation_gains_a_factor_that_grows_with_the_rank():
    """Truth along one direction: only distillation tells it from the others, whose noise ridge regression keeps."""
    gains = []
    for rank in (2, 4, 6):
        x = torch.diag(torch.linspace(1, 2, rank, dtype=torch.float64))
        theta = 100 * torch.eye(rank, dtype=torch.float64)[0]
        ridge = min(excess_risk(x, theta, 1.0, lam) for lam in LAMBDAS)
        steps = {
            k: min(excess_risk(x, theta, 1.0, lam, optimal_xi(x, theta, 1.0, lam, k)) for lam in LAMBDAS)
            for k in (1, rank)
        }
        assert steps[rank] <= 1.0 / rank  # the variance of a single direction
        gains.append((ridge / steps[rank], ridge / steps[1]))
    assert [full for full, _ in gains] == pytest.approx([2, 4, 6], rel=0.05)
    assert all(one < 0.7 * full for full, one in gains[1:])


def test_one_generation_gains_nothing_where_ridge_regression_is_at_its_best():
    """The student moves with imitation as ridge regression does with less of its regularisation: xi has the sign of
    minus the slope of the risk."""
    x, theta, _ = problem()
    for lam in LAMBDAS:
        slope = excess_risk(x, theta, 0.5, lam * (1 + 1e-4)) - excess_risk(x, theta, 0.5, lam * (1 - 1e-4))
        (xi,) = optimal_xi(x, theta, 0.5, lam)
        assert math.copysign(1, xi) == -math.copysign(1, slope)
    flat = torch.eye(5, dtype=torch.float64)  # of one singular value, best at noise / mean square of the truth
    assert optimal_xi(flat, torch.ones(5), 0.5, 0.5, steps=3) == pytest.approx([0.0] * 3, abs=1e-9)


@pytest.mark.parametrize("steps", [1, 2])
def test_estimated_imitations_are_the_best_for_the_validation_set(steps):
    x, _, y = problem(samples=80)
    train, held_out = slice(40), slice(40, 80)
    xis = estimated_xi(x[train], y[train], x[held_out], y[held_out], 20.0, steps)

    def error(xis):
        return (y[held_out] - x[held_out] @ self_distilled_ridge(x[train], y[train], 20.0, xis)).square().mean().item()

    assert len(xis) == steps
    assert error(xis) < error([])
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        assert error([xi + 0.2 * torch.randn((), generator=generator).item() for xi in xis]) >= error(xis)


def test_estimated_imitations_approach_the_optimal_ones():
    """With the truth itself as a large validation set; then only the noise of the training labels is left."""
    x, theta, _ = problem()
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(300):
        y = x @ theta + 0.5**0.5 * torch.randn(40, generator=generator, dtype=torch.float64)
        found += estimated_xi(x, y, x, x @ theta, 20.0)
    assert torch.tensor(found).mean().item() == pytest.approx(optimal_xi(x, theta, 0.5, 20.0)[0], rel=0.05)


def test_bad_input():
    x, theta, y = problem()
    with pytest.raises(InputError, match=r"inputs must be \(N, D\).* got \(40, 6\) and \(39,\)"):
        self_distilled_ridge(x, y[1:], 1.0)
    with pytest.raises(InputError, match="lam must be positive, got 0"):
        self_distilled_ridge(x, y, 0)
    with pytest.raises(InputError, match="kernel must be square"):
        self_distilled_kernel_ridge(x, y, 1.0)
    with pytest.raises(InputError, match="labels and predictions must have one shape"):
        optimal_alpha(y, y, y[1:])
    with pytest.raises(InputError, match="steps must be at least 1, got 0"):
        optimal_xi(x, theta, 1.0, 1.0, steps=0)
    with pytest.raises(InputError, match="noise must be a variance of at least 0, got -1"):
        excess_risk(x, theta, -1, 1.0)
    with pytest.raises(InputError, match=r"theta must be \(D,\)"):
        excess_risk(x, theta[1:], 1.0, 1.0)
    with pytest.raises(InputError, match=r"x_val must be \(M, 6\)"):
        estimated_xi(x, y, x[:, 1:], y, 1.0)
