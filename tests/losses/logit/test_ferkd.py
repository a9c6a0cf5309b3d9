import pytest
import torch
from torch.nn import functional as F

from lit_distill.errors import InputError
from lit_distill.losses import FerKD
from lit_distill.losses.logit import calibrated, ferkd, fkd

TARGET = torch.arange(200) % 5


def both(batch=200, classes=5):
    generator = torch.Generator().manual_seed(0)
    student, teacher = 2 * torch.randn(2, batch, classes, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def test_sample_by_sample():
    student, teacher = both()
    low, middle, top, smoothing = 0.1, 0.4, 0.8, 0.2
    total, kinds = 0.0, {"discarded": 0, "hard": 0, "important": 0}
    for s, t, y in zip(student, teacher, TARGET.tolist(), strict=True):
        p, log_q = t.softmax(-1), s.log_softmax(-1)
        if p[y] < low or p[y] > top:
            kinds["discarded"] += 1
            continue
        kind = "hard" if p[y] < middle else "important"
        kinds[kind] += 1
        for c in range(5):
            label = p[c] if kind == "important" else 1 - smoothing if c == y else smoothing / 4
            total -= label * log_q[c]
    assert min(kinds.values()) > 20
    value = ferkd(student, teacher, TARGET, low, middle, top, smoothing)
    torch.testing.assert_close(value, total / (200 - kinds["discarded"]))
    batch = ferkd(student, teacher, TARGET, low, middle, top, smoothing, mean_over="batch")
    torch.testing.assert_close(batch, total / 200)


def test_without_thresholds_it_is_fkd():
    student, teacher = both()
    for temperature in (1.0, 3.0):
        value = ferkd(student, teacher, TARGET, low=0.0, middle=0.0, top=1.0, temperature=temperature)
        torch.testing.assert_close(value, fkd(student, teacher, temperature))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_when_all_are_hard_it_is_cross_entropy(smoothing):
    student, teacher = both()
    value = ferkd(student, teacher, TARGET, low=0.0, middle=1.0, top=1.0, smoothing=smoothing)
    # torch spreads its share over all classes, the true one included
    expected = F.cross_entropy(student, TARGET, label_smoothing=smoothing * 5 / 4)
    torch.testing.assert_close(value, expected)


def test_what_is_discarded_has_no_gradient():
    student, teacher = both()
    _, kept = calibrated(teacher.softmax(-1), TARGET, 0.2, 0.4, 0.7, 0.1)
    assert 20 < kept.sum() < 180
    (gradient,) = torch.autograd.grad(ferkd(student, teacher, TARGET, low=0.2, middle=0.4, top=0.7), student)
    assert torch.equal(gradient.abs().sum(-1) > 0, kept)
    alone = ferkd(student[kept], teacher[kept], TARGET[kept], low=0.2, middle=0.4, top=0.7)
    torch.testing.assert_close(ferkd(student, teacher, TARGET, low=0.2, middle=0.4, top=0.7), alone)


def test_nothing_left():
    student, _ = both()
    value = ferkd(student, -50 * F.one_hot(TARGET, 5).double(), TARGET)
    (gradient,) = torch.autograd.grad(value, student)
    assert value == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("scale", [1e4, 1e6])
def test_a_certain_teacher_is_kept(scale):
    """Rounding must not carry a confidence beyond 1."""
    for rows in (1, 7, 64):
        certain = scale * F.one_hot(TARGET[:rows], 5).float()
        _, kept = calibrated(certain.softmax(-1) * (1 + 1e-7), TARGET[:rows], 0.15, 0.3, 1.0, 0.1)
        assert kept.all()


def test_of_a_mixed_label_the_likeliest_class_counts():
    student, teacher = both()
    mixed = 0.7 * F.one_hot(TARGET, 5) + 0.3 * F.one_hot(TARGET.roll(1), 5)
    torch.testing.assert_close(ferkd(student, teacher, mixed.double()), ferkd(student, teacher, TARGET))


def test_labels_are_distributions():
    _, teacher = both()
    labels, _ = calibrated(teacher.softmax(-1), TARGET, 0.15, 0.3, 1.0, 0.1)
    torch.testing.assert_close(labels.sum(-1), torch.ones(200, dtype=torch.float64))
    assert labels.min() >= 0


def test_gradient():
    student, teacher = both(batch=8)
    assert torch.autograd.gradcheck(lambda s: ferkd(s, teacher, TARGET[:8]), student)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"low": -0.1}, r"low must be in \[0, 1\], got -0.1"),
        ({"top": 1.5}, r"top must be in \[0, 1\], got 1.5"),
        ({"low": 0.4}, "middle must be from low, 0.4, to top, 1.0, got 0.3"),
        ({"top": 0.2}, "middle must be from low, 0.15, to top, 0.2, got 0.3"),
        ({"smoothing": 2.0}, r"smoothing must be in \[0, 1\], got 2.0"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"mean_over": "all"}, "mean_over must be kept or batch, got 'all'"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(InputError, match=message):
        FerKD(**arguments)


def test_shapes_are_checked():
    with pytest.raises(InputError, match="of one shape"):
        ferkd(torch.zeros(2, 3), torch.zeros(2, 4), torch.tensor([0, 1]))
