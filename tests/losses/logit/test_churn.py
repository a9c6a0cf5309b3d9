import pytest
import torch
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import AnchorRCP, ChurnReduction, CrossEntropy
from lit_distill.losses.logit import anchor_rcp, churn_reduction, kd

CLASSES = 5
TARGET = torch.tensor([0, 1, 2, 3, 4, 0])


def both(batch=6):
    generator = torch.Generator().manual_seed(0)
    student, teacher = 2 * torch.randn(2, batch, CLASSES, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def mixed_labels():
    return 0.6 * F.one_hot(TARGET, CLASSES).double() + 0.4 * F.one_hot(TARGET.roll(1), CLASSES).double()


def gradient(value, student):
    return torch.autograd.grad(value, student)[0]


labels = pytest.mark.parametrize("target", [TARGET, mixed_labels()], ids=["classes", "mixed"])
mixings = pytest.mark.parametrize("mixing", [0.0, 0.3, 1.0])


def as_probabilities(target):
    return target if target.is_floating_point() else F.one_hot(target, CLASSES).double()


@labels
@mixings
def test_it_is_cross_entropy_with_the_papers_target(target, mixing):
    student, teacher = both()
    mixture = mixing * teacher.softmax(-1) + (1 - mixing) * as_probabilities(target)
    torch.testing.assert_close(churn_reduction(student, teacher, target, mixing), F.cross_entropy(student, mixture))


@labels
@mixings
def test_its_gradient_is_that_of_cross_entropy_with_a_divergence_from_the_base_model(target, mixing):
    student, teacher = both()
    bounded = (1 - mixing) * F.cross_entropy(student, target) + mixing * kd(student, teacher, temperature=1.0)
    torch.testing.assert_close(
        gradient(churn_reduction(student, teacher, target, mixing), student), gradient(bounded, student)
    )


def test_at_the_ends_it_is_cross_entropy_and_a_copy():
    student, teacher = both()
    ce = CrossEntropy()(Outputs(student), Outputs(teacher), TARGET)
    torch.testing.assert_close(churn_reduction(student, teacher, TARGET, 0.0), ce)
    copied = churn_reduction(student, teacher, TARGET, 1.0)
    torch.testing.assert_close(copied, churn_reduction(student, teacher, TARGET.roll(1), 1.0))  # labels do not count
    torch.testing.assert_close(gradient(copied, student), gradient(kd(student, teacher, temperature=1.0), student))


def test_the_best_student_predicts_the_mixture():
    _, teacher = both()
    mixture = 0.3 * teacher.softmax(-1) + 0.7 * mixed_labels()
    student = mixture.clamp_min(1e-300).log().requires_grad_()
    value = churn_reduction(student, teacher, mixed_labels(), 0.3)
    assert gradient(value, student).abs().max() < 1e-12
    assert churn_reduction(student + 0.1 * both()[0], teacher, mixed_labels(), 0.3) > value


def test_with_a_base_model_that_knows_nothing_it_is_label_smoothing():
    student, _ = both()
    smoothed = F.cross_entropy(student, TARGET, label_smoothing=0.2)
    torch.testing.assert_close(churn_reduction(student, torch.zeros_like(student), TARGET, 0.2), smoothed)


def test_classes_that_the_models_rule_out():
    student, teacher = both()
    masked, base = student.detach().clone(), teacher.clone()
    masked[:, 4] = base[:, 4] = -torch.inf
    target = TARGET.clamp(max=3)
    for function in (churn_reduction, anchor_rcp):
        masked.requires_grad_()
        value = function(masked, base, target)
        torch.testing.assert_close(value, function(masked[:, :4], base[:, :4], target))
        assert gradient(value, masked).isfinite().all()


def test_the_anchor_sample_by_sample():
    student, teacher = both()
    teacher[::2].scatter_(1, TARGET[::2, None], 9.0)  # the base model is right about these
    total, wrong = 0.0, 0
    for s, t, y in zip(student, teacher, TARGET.tolist(), strict=True):
        label = -s.log_softmax(-1)[y]
        if t.argmax() == y:
            total += 0.7 * -(t.softmax(-1) * s.log_softmax(-1)).sum() + 0.3 * label
        else:
            total, wrong = total + 0.4 * label, wrong + 1
    assert 0 < wrong < len(TARGET)
    torch.testing.assert_close(anchor_rcp(student, teacher, TARGET, alpha=0.7, epsilon=0.4), total / len(TARGET))


@labels
def test_the_anchor_of_a_model_that_is_always_right_or_always_wrong(target):
    student, teacher = both()
    right = teacher.scatter(1, TARGET[:, None], 9.0)
    torch.testing.assert_close(
        anchor_rcp(student, right, target, alpha=0.7, epsilon=0.1), churn_reduction(student, right, target, 0.7)
    )
    wrong = teacher.scatter(1, TARGET[:, None], -9.0)
    torch.testing.assert_close(
        anchor_rcp(student, wrong, target, alpha=0.7, epsilon=0.1), 0.1 * F.cross_entropy(student, target)
    )


def test_an_anchor_that_holds_nothing_is_cross_entropy():
    student, teacher = both()
    given = anchor_rcp(student, teacher, TARGET, alpha=0.0, epsilon=1.0)
    torch.testing.assert_close(given, F.cross_entropy(student, TARGET))


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (ChurnReduction, {"mixing": 1.1}, r"mixing must be in \[0, 1\], got 1.1"),
        (AnchorRCP, {"alpha": -0.1}, r"alpha must be in \[0, 1\], got -0.1"),
        (AnchorRCP, {"epsilon": 2}, r"epsilon must be in \[0, 1\], got 2"),
    ],
)
def test_bad_hyperparameters(kind, settings, message):
    with pytest.raises(InputError, match=message):
        kind(**settings)


@pytest.mark.parametrize("kind", [ChurnReduction, AnchorRCP])
def test_a_target_that_does_not_fit(kind):
    student, teacher = both()
    with pytest.raises(InputError, match=r"target must be class indices \(6,\)"):
        kind()(Outputs(student), Outputs(teacher), TARGET[:4])
