import pytest
import torch

from lit_distill.errors import InputError
from lit_distill.losses import CTKD, DIST, KD, ConfidenceMask, CorrectnessMask
from lit_distill.losses.modifiers import Mask

from .common import both, call, kd, value_and_gradient

MASKS = {
    "confident": lambda loss, **kwargs: ConfidenceMask(loss, threshold=0.6, **kwargs),
    "correct": CorrectnessMask,
}


def kept(name):
    _, teacher, target = both()
    return teacher.softmax(-1).amax(-1) >= 0.6 if name == "confident" else teacher.argmax(-1) == target


@pytest.mark.parametrize("name", MASKS)
def test_the_tests_keep_some_and_not_all(name):
    assert 1 < kept(name).sum() < 7


@pytest.mark.parametrize("term", [KD, DIST])
@pytest.mark.parametrize("name", MASKS)
def test_the_term_hears_of_the_kept_samples_alone(name, term):
    student, teacher, target = both()
    rows = kept(name)
    alone = call(term(), student[rows], teacher[rows], target[rows])
    of_kept = call(MASKS[name](term(), mean_over="kept"), student, teacher, target)
    of_batch = call(MASKS[name](term(), mean_over="batch"), student, teacher, target)
    torch.testing.assert_close(of_kept, alone)
    torch.testing.assert_close(of_batch, alone * rows.sum() / 8)


@pytest.mark.parametrize("name", MASKS)
def test_other_samples_have_no_gradient(name):
    _, gradient = value_and_gradient(MASKS[name](kd()), *both())
    assert torch.equal(gradient.abs().sum(-1) > 0, kept(name))


@pytest.mark.parametrize("mean_over", ["batch", "kept"])
def test_a_batch_without_one_is_0_and_in_the_graph(mean_over):
    student, teacher, _ = both()
    never = teacher.argmin(-1)
    loss = CorrectnessMask(CTKD(kd()), mean_over=mean_over).double()
    value = call(loss, student, teacher, never)
    gradients = torch.autograd.grad(value, [student, loss.loss.theta])
    assert value == 0
    assert all(torch.equal(gradient, torch.zeros_like(gradient)) for gradient in gradients)
    uncertain = call(ConfidenceMask(kd(), threshold=1.0, mean_over=mean_over), student, teacher, never)
    assert torch.equal(torch.autograd.grad(uncertain, student)[0], torch.zeros_like(student))


def test_masks_meet():
    student, teacher, target = both()
    rows = kept("confident") & kept("correct")
    assert 0 < rows.sum() < min(kept("confident").sum(), kept("correct").sum())
    for loss in (
        ConfidenceMask(CorrectnessMask(kd(), "batch"), 0.6),
        CorrectnessMask(ConfidenceMask(kd(), 0.6), "batch"),
    ):
        expected = call(kd(), student[rows], teacher[rows], target[rows]) * rows.sum() / 8
        torch.testing.assert_close(call(loss, student, teacher, target), expected)


def test_a_mask_of_your_own():
    class Every(Mask):
        def kept(self, student, teacher, target):
            return torch.arange(len(target)) % 2 == 0

    student, teacher, target = both()
    value = call(Every(kd(), mean_over="kept"), student, teacher, target)
    torch.testing.assert_close(value, call(kd(), student[::2], teacher[::2], target[::2]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConfidenceMask(kd(), threshold=1.5), r"threshold must be in \[0, 1\], got 1.5"),
        (lambda: CorrectnessMask(kd(), mean_over="all"), "mean_over must be batch or kept, got 'all'"),
    ],
)
def test_bad_hyperparameters(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_a_target_must_fit():
    student, teacher, target = both()
    with pytest.raises(InputError, match=r"target must be class indices \(8,\) or class probabilities \(8, 7\), got"):
        call(CorrectnessMask(kd()), student, teacher, target[:5])
