import math

import pytest
import torch
from scipy import stats

from lit_distill.errors import InputError
from lit_distill.losses import DIST, EntropyPick
from lit_distill.losses.modifiers import entropy

from .common import both, call, kd, value_and_gradient


def test_entropy_is_that_of_scipy():
    _, teacher, _ = both()
    torch.testing.assert_close(entropy(teacher), torch.from_numpy(stats.entropy(teacher.softmax(-1), axis=-1)))


def test_entropy_of_certain_answers_and_of_masked_classes():
    far = torch.tensor([[1e4, -1e4, 0.0], [0.0, 0.0, -torch.inf]])
    torch.testing.assert_close(entropy(far), torch.tensor([0.0, math.log(2)]))
    torch.testing.assert_close(entropy(far.bfloat16()), entropy(far))


@pytest.mark.parametrize("term", [kd, DIST])
@pytest.mark.parametrize("whose", ["teacher", "student"])
@pytest.mark.parametrize(("keep", "number"), [(0.01, 1), (0.3, 2), (0.5, 4), (0.9, 7)])
def test_the_term_hears_of_the_least_certain_alone(term, whose, keep, number):
    student, teacher, target = both()
    uncertainty = stats.entropy((teacher if whose == "teacher" else student.detach()).softmax(-1), axis=-1)
    rows = sorted(sorted(range(8), key=lambda row: -uncertainty[row])[:number])
    alone = call(term(), student[rows], teacher[rows], target[rows])
    of_kept = EntropyPick(term(), keep=keep, whose=whose)
    of_batch = EntropyPick(term(), keep=keep, whose=whose, mean_over="batch")
    torch.testing.assert_close(call(of_kept, student, teacher, target), alone)
    torch.testing.assert_close(call(of_batch, student, teacher, target), alone * number / 8)
    _, gradient = value_and_gradient(of_kept, student, teacher, target)
    assert gradient.abs().sum(-1).nonzero().squeeze(-1).tolist() == rows


def test_keeping_all_is_the_plain_term_bit_for_bit():
    given = both(dtype=torch.float32)
    for a, b in zip(
        value_and_gradient(EntropyPick(kd(), keep=1.0), *given), value_and_gradient(kd(), *given), strict=True
    ):
        assert torch.equal(a, b)


def test_the_order_of_the_samples_does_not_matter():
    student, teacher, target = both()
    order = torch.tensor([3, 7, 0, 1, 6, 2, 5, 4])
    mixed_up = call(EntropyPick(kd()), student[order], teacher[order], target[order])
    torch.testing.assert_close(mixed_up, call(EntropyPick(kd()), student, teacher, target))


def test_of_equals_the_first_are_kept():
    student, _, target = both()
    alike = torch.zeros(8, 7).double()
    expected = call(kd(), student[:4], alike[:4], target[:4])
    torch.testing.assert_close(call(EntropyPick(kd()), student, alike, target), expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"keep": 0.0}, r"keep must be in \(0, 1\], got 0.0"),
        ({"keep": 1.5}, r"keep must be in \(0, 1\], got 1.5"),
        ({"whose": "both"}, "whose must be teacher or student, got 'both'"),
    ],
)
def test_bad_hyperparameters(given, message):
    with pytest.raises(InputError, match=message):
        EntropyPick(kd(), **given)
