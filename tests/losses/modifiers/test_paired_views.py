import pytest
import torch

from lit_distill.errors import InputError
from lit_distill.losses import CrossEntropy, PairedViews

from .common import both, call, kd, value_and_gradient


def test_strong_student_weak_teacher():
    student, teacher, target = both()
    value, gradient = value_and_gradient(PairedViews(kd()), student, teacher, target)
    torch.testing.assert_close(value, call(kd(), student[4:], teacher[:4], target[4:]).detach())
    assert torch.equal(gradient[:4], torch.zeros(4, 7).double())
    assert (gradient[4:] != 0).all()


def test_crossed_is_the_mean_of_both_directions():
    student, teacher, target = both()
    strong = call(kd(), student[4:], teacher[:4], target[:4])
    weak = call(kd(), student[:4], teacher[4:], target[:4])
    torch.testing.assert_close(call(PairedViews(kd(), "crossed"), student, teacher, target), (strong + weak) / 2)


def test_equal_views_make_all_pairs_equal():
    student, teacher, target = (x[:4].repeat(2, *(1,) * (x.dim() - 1)) for x in both())
    values = [
        call(PairedViews(kd(), pairs), student, teacher, target) for pairs in ("strong_from_weak", "crossed", "within")
    ]
    torch.testing.assert_close(values[1], values[0])
    torch.testing.assert_close(values[2], values[0])


@pytest.mark.parametrize("soft", [False, True])
def test_labels_go_with_the_students_view(soft):
    student, teacher, target = both()
    if soft:
        target = torch.rand(8, 7).softmax(-1).double()
    value = call(PairedViews(CrossEntropy()), student, teacher, target)
    torch.testing.assert_close(value, call(CrossEntropy(), student[4:], teacher, target[4:]))
    value = call(PairedViews(CrossEntropy(), pairs="crossed"), student, teacher, target)
    torch.testing.assert_close(value, call(CrossEntropy(), student, teacher, target))


def test_bad_arguments():
    with pytest.raises(InputError, match="pairs must be one of strong_from_weak, crossed, within, got 'both'"):
        PairedViews(kd(), pairs="both")
    with pytest.raises(InputError, match="batch must be an even number: all weak views, then all strong ones, got 7"):
        call(PairedViews(kd()), *both(batch=7))
