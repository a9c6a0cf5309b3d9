import pytest
import torch

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import CRLD, KD, PairedViews
from lit_distill.losses.logit import crld, kd


def views(batch=6, classes=5):
    """Student's weak and strong views, then the teacher's."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(4, batch, classes, generator=generator, dtype=torch.float64)
    return logits[0].requires_grad_(), logits[1].requires_grad_(), logits[2], logits[3]


def only(part, sw, ss, tw, ts, **given):
    weights = {"within_weight": 0.0, "cross_weight": 0.0, part: 1.0}
    return crld(sw, ss, tw, ts, **weights, **given)


def test_without_masks_it_is_kd_of_all_pairs_of_views():
    sw, ss, tw, ts = views()
    within = only("within_weight", sw, ss, tw, ts, weak_threshold=0.0)
    torch.testing.assert_close(within, kd(sw, tw) + kd(ss, ts))
    across = only("cross_weight", sw, ss, tw, ts, strong_threshold=0.0)
    torch.testing.assert_close(across, kd(ss, tw) + kd(sw, ts))
    value = crld(sw, ss, tw, ts, within_weight=3.0, cross_weight=2.0, weak_threshold=0.0, strong_threshold=0.0)
    torch.testing.assert_close(value, 3 * within + 2 * across)


def test_across_views_it_is_the_modifier():
    sw, ss, tw, ts = views()
    modified = PairedViews(KD(), pairs="crossed")
    value = modified(Outputs(torch.cat([sw, ss])), Outputs(torch.cat([tw, ts])), torch.zeros(12).long())
    torch.testing.assert_close(only("cross_weight", sw, ss, tw, ts, strong_threshold=0.0), 2 * value)


@pytest.mark.parametrize(("part", "view", "threshold"), [("within", 2, "weak"), ("cross", 3, "strong")])
def test_only_images_count_of_which_the_teacher_is_certain_in_that_view(part, view, threshold):
    logits = views()
    confidence = logits[view].softmax(1).amax(1)
    given = {f"{threshold}_threshold": confidence.median().item()}
    kept = confidence >= confidence.median()
    value = only(f"{part}_weight", *logits, **given)
    alone = only(f"{part}_weight", *(x[kept] for x in logits), **given)
    torch.testing.assert_close(value, alone * kept.sum() / 6)
    gradients = torch.autograd.grad(value, logits[:2])
    assert all(gradient[~kept].abs().max() == 0 for gradient in gradients)
    assert 0 < kept.sum() < 6


def test_the_confidence_is_not_softened():
    sw, ss, _, _ = views()
    teacher = 6.0 * torch.eye(6, 5).double()  # sure of five images, at temperature 1
    assert only("within_weight", sw, ss, teacher, teacher, temperature=20.0) > 0


def test_a_student_that_equals_a_teacher_who_says_the_same_of_both_views_has_nothing_to_learn():
    weak, *_ = views()
    value = crld(weak, weak, weak.detach(), weak.detach())
    (gradient,) = torch.autograd.grad(value, weak)
    torch.testing.assert_close(value, torch.zeros_like(value))
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))


def test_the_class_halves_the_batch_and_passes_its_hyperparameters():
    sw, ss, tw, ts = views()
    given = {
        "within_weight": 3.0,
        "cross_weight": 0.7,
        "temperature": 2.0,
        "weak_threshold": 0.6,
        "strong_threshold": 0.4,
    }
    value = CRLD(**given)(Outputs(torch.cat([sw, ss])), Outputs(torch.cat([tw, ts])), torch.empty(0))
    torch.testing.assert_close(value, crld(sw, ss, tw, ts, **given))


def test_views_come_in_pairs():
    with pytest.raises(InputError, match=r"batch must be an even number: all weak views, .*, got 5 samples"):
        CRLD()(Outputs(torch.zeros(5, 3)), Outputs(torch.zeros(5, 3)), torch.empty(0))


def test_views_must_be_of_the_same_images():
    with pytest.raises(InputError, match=r"logits \(here of both views\) must be of one shape"):
        crld(torch.zeros(4, 3), torch.zeros(2, 3), torch.zeros(4, 3), torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"within_weight": -1.0}, "within_weight must be 0 or positive, got -1.0"),
        ({"cross_weight": -1.0}, "cross_weight must be 0 or positive, got -1.0"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"weak_threshold": 1.5}, r"weak_threshold must be in \[0, 1\], got 1.5"),
        ({"strong_threshold": -0.5}, r"strong_threshold must be in \[0, 1\], got -0.5"),
    ],
)
def test_bad_hyperparameters(given, message):
    with pytest.raises(InputError, match=message):
        CRLD(**given)
