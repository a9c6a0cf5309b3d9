import pytest
import torch
from torch.nn import functional as F

from lit_distill.errors import InputError
from lit_distill.losses import DKD, KD, TVD, CrossEntropy, DivergenceKD, TopK
from lit_distill.losses.modifiers import top_k

from .common import CLASSES, both, call, kd


def by_hand(k, tail):
    """The mean divergence at temperature 1, from probabilities."""
    student, teacher, _ = both()
    q, p = student.softmax(-1), teacher.softmax(-1)
    top = p.topk(k).indices
    p_top, q_top = p.gather(1, top), q.gather(1, top)
    if tail == "bucket":
        p, q = (torch.cat([x, 1 - x.sum(1, keepdim=True)], 1) for x in (p_top, q_top))
    else:
        p = p_top / p_top.sum(1, keepdim=True)
        q = q_top / q_top.sum(1, keepdim=True) if tail == "renormalise_both" else q_top
    return (p * (p.log() - q.log())).sum(1).mean()


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("tail", ["bucket", "renormalise_both", "renormalise_teacher"])
def test_each_form_is_what_its_name_says(k, tail):
    torch.testing.assert_close(call(TopK(kd(1.0), k=k, tail=tail), *both()), by_hand(k, tail))


def test_a_bucket_is_a_bound_from_below_that_grows_with_k():
    given = both()
    values = [call(TopK(kd(1.0), k=k), *given).item() for k in range(1, CLASSES + 1)]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(call(kd(1.0), *given).item())
    assert values[-2] == pytest.approx(values[-1])  # a bucket of one class is that class


def test_both_renormalised_do_not_see_what_is_outside():
    student, teacher, target = both()
    outside = torch.ones_like(teacher).scatter(1, teacher.topk(3).indices, 0.0)
    loss = TopK(kd(), k=3, tail="renormalise_both")
    (gradient,) = torch.autograd.grad(call(loss, student, teacher, target), student)
    assert torch.equal(gradient * outside, torch.zeros_like(gradient))
    torch.testing.assert_close(call(loss, student + 9 * outside, teacher, target), call(loss, student, teacher, target))


def test_a_renormalised_teacher_pushes_all_probability_inside():
    student, teacher, target = both()
    outside = torch.ones_like(teacher).scatter(1, teacher.topk(3).indices, 0.0).bool()
    loss = TopK(kd(), k=3, tail="renormalise_teacher")
    (gradient,) = torch.autograd.grad(call(loss, student, teacher, target), student)
    assert (gradient[outside] > 0).all()
    best = torch.where(outside, -40.0, teacher)
    assert call(loss, best, teacher, target) < 1e-5


@pytest.mark.parametrize("temperature", [1.0, 4.0, 100.0])
def test_a_class_that_is_ruled_out_has_no_probability_at_any_temperature(temperature):
    _, teacher, _ = both(dtype=torch.float32)
    _, cut = top_k(teacher, teacher, 3, "renormalise_teacher")
    assert ((cut / temperature).softmax(-1) > 0).sum(-1).eq(3).all()


def test_one_class_and_its_rest_are_two_events():
    student, teacher, target = both()
    best = teacher.argmax(-1)
    value = call(TopK(kd(1.0), k=1), student, teacher, target)
    torch.testing.assert_close(value, call(DKD(alpha=1.0, beta=0.0, temperature=1.0), student, teacher, best))


def test_labels_keep_their_place():
    student, teacher, _ = both()
    top = teacher.topk(3).indices
    inside = call(TopK(CrossEntropy(), k=3), student, teacher, top[:, 1])
    torch.testing.assert_close(inside, F.cross_entropy(student, top[:, 1]))
    outside = teacher.argmin(-1)
    q = student.softmax(-1)
    rest = 1 - q.gather(1, top).sum(1)
    torch.testing.assert_close(call(TopK(CrossEntropy(), k=3), student, teacher, outside), -rest.log().mean())
    teacher_only = TopK(CrossEntropy(), k=3, tail="renormalise_teacher")
    torch.testing.assert_close(call(teacher_only, student, teacher, outside), F.cross_entropy(student, outside))


def test_mixed_labels_keep_their_shares():
    student, teacher, _ = both()
    target = torch.rand(8, CLASSES, dtype=torch.float64).softmax(-1)
    top, q = teacher.topk(3).indices, student.softmax(-1)
    share, chance = target.gather(1, top), q.gather(1, top)
    value = (share * chance.log()).sum(1) + (1 - share.sum(1)) * (1 - chance.sum(1)).log()
    torch.testing.assert_close(call(TopK(CrossEntropy(), k=3), student, teacher, target), -value.mean())


def test_a_label_without_a_place_is_refused_by_a_term_that_reads_it():
    student, teacher, _ = both()
    loss = TopK(CrossEntropy(), k=3, tail="renormalise_both")
    assert call(loss, student, teacher, teacher.argmax(-1)).isfinite()
    with pytest.raises(IndexError):
        call(loss, student, teacher, teacher.argmin(-1))


def test_any_divergence():
    student, teacher, target = both()
    top = teacher.topk(3).indices
    p, q = (x.softmax(-1).gather(1, top) for x in (teacher, student))
    expected = 0.5 * ((p - q).abs().sum(1) + (p.sum(1) - q.sum(1)).abs()).mean()
    torch.testing.assert_close(call(TopK(DivergenceKD(TVD()), k=3), student, teacher, target), expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"k": 0}, "k must be at least 1 with tail bucket, got 0"),
        ({"k": 1, "tail": "renormalise_both"}, "k must be at least 2 with tail renormalise_both, got 1"),
        ({"k": 3, "tail": "drop"}, "tail must be one of bucket, renormalise_both, renormalise_teacher, got 'drop'"),
    ],
)
def test_bad_hyperparameters(given, message):
    with pytest.raises(InputError, match=message):
        TopK(KD(), **given)


def test_classes_must_agree():
    student, teacher, target = both()
    with pytest.raises(InputError, match=r"\(8, 7\) and \(8, 5\)"):
        call(TopK(KD(), k=2), student, teacher[:, :5], target)
