import pytest
import torch

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import MLLD
from lit_distill.losses.logit import kd, mlld
from lit_distill.losses.logit.mlld import mlld_levels

MODES = pytest.mark.parametrize("mode", ["paper", "code"])


def views(batch=6, classes=5):
    """Student's weak and strong views, then the teacher's."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, batch, classes, generator=generator, dtype=torch.float64)
    return logits[0].requires_grad_(), logits[1].requires_grad_(), logits[2], logits[3]


@MODES
def test_a_student_that_equals_its_teacher_has_nothing_to_learn(mode):
    weak, strong, *_ = views()
    value = mlld(weak, strong, weak.detach(), strong.detach(), mode=mode)
    gradients = torch.autograd.grad(value, (weak, strong))
    torch.testing.assert_close(value, torch.zeros_like(value))
    for gradient in gradients:
        torch.testing.assert_close(gradient, torch.zeros_like(gradient))


def test_divergences_of_the_paper_are_kd_of_both_views():
    sw, ss, tw, ts = views()
    samples, _, _ = mlld_levels(sw, ss, tw, ts, (2.0, 3.0), "paper")
    torch.testing.assert_close(samples, sum(kd(s, t, T) for s, t in ((sw, tw), (ss, ts)) for T in (2.0, 3.0)))


def test_gram_matrices_of_the_paper_are_products_of_samples_and_of_classes():
    sw, ss, tw, ts = views()
    _, of_batch, of_classes = mlld_levels(sw, ss, tw, ts, (2.0,), "paper")
    between_samples = between_classes = 0
    for s, t in ((sw, tw), (ss, ts)):
        q, p = (s / 2).softmax(1), (t / 2).softmax(1)
        between_samples += sum((p[i] @ p[j] - q[i] @ q[j]) ** 2 for i in range(6) for j in range(6)) / 6
        between_classes += sum((p[:, i] @ p[:, j] - q[:, i] @ q[:, j]) ** 2 for i in range(5) for j in range(5)) / 5
    torch.testing.assert_close(of_batch, between_samples)
    torch.testing.assert_close(of_classes, between_classes)


def test_in_mode_code_the_strong_views_have_three_temperatures_and_no_gram_matrix():
    sw, ss, tw, ts = views()
    value = mlld(sw, ss, tw, ts)
    (gradient,) = torch.autograd.grad(value, ss)
    (expected,) = torch.autograd.grad(sum(kd(ss, ts, T) for T in (4.0, 3.0, 5.0)), ss)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(("batch", "share"), [(6, 1 / 2), (7, 4 / 7)])
def test_in_mode_code_masks_are_shares_of_samples_and_of_classes(batch, share):
    sw, _, tw, _ = views(batch=batch)
    of_paper = mlld_levels(sw, tw, tw, tw, (4.0,), "paper")
    of_code = mlld_levels(sw, tw, tw, tw, (4.0,), "code")
    shares = [code / paper for code, paper in zip(of_code, of_paper, strict=True)]
    torch.testing.assert_close(shares, [torch.tensor(s, dtype=torch.float64) for s in (share, share, 3 / 5)])


@MODES
def test_the_class_halves_the_batch(mode):
    sw, ss, tw, ts = views()
    loss = MLLD(temperatures=(2.0, 5.0), mode=mode)
    value = loss(Outputs(torch.cat([sw, ss])), Outputs(torch.cat([tw, ts])), torch.empty(0))
    torch.testing.assert_close(value, mlld(sw, ss, tw, ts, (2.0, 5.0), mode))


def test_views_come_in_pairs():
    with pytest.raises(InputError, match=r"batch must be an even number: all weak views, .*, got 5 samples"):
        MLLD()(Outputs(torch.zeros(5, 3)), Outputs(torch.zeros(5, 3)), torch.empty(0))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"temperatures": ()}, r"temperatures must be at least one number, got \(\)"),
        ({"temperatures": (4.0, 0.0)}, "temperature must be positive, got 0.0"),
        ({"mode": "both"}, "mode must be paper or code, got 'both'"),
    ],
)
def test_bad_hyperparameters(given, message):
    with pytest.raises(InputError, match=message):
        MLLD(**given)
