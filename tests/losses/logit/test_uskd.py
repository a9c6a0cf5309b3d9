import pytest
import torch
from torch.nn import functional as F

from lit_distill import Distiller
from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import USKD, CrossEntropy
from lit_distill.losses.logit import uskd
from lit_distill.models import MLP, resnet8

TARGET = torch.tensor([0, 3, 2, 1])
MODES = pytest.mark.parametrize("mode", ["paper", "code"])


def both(batch=4, classes=6):
    generator = torch.Generator().manual_seed(0)
    student, weak = torch.randn(2, batch, classes, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), weak.requires_grad_()


def test_a_sample_of_mean_confidence_has_plain_cross_entropy():
    student, weak = both()
    alike = student[:1].repeat(4, 1)
    value = uskd(alike, weak, TARGET[:1].repeat(4), beta=0.0, mu=0.0)
    torch.testing.assert_close(value, F.cross_entropy(alike, TARGET[:1].repeat(4)))


def test_surer_samples_count_more_and_the_weights_carry_no_gradient():
    student, weak = both()
    (gradient,) = torch.autograd.grad(uskd(student, weak, TARGET, beta=0.0, mu=0.0), student)
    square = student.softmax(1).gather(1, TARGET[:, None]) ** 2
    weights = (square + 1 - square.mean()).detach()
    expected = weights * (student.softmax(1) - F.one_hot(TARGET, 6)) / 4
    torch.testing.assert_close(gradient, expected)


@MODES
def test_soft_labels_of_the_other_classes_are_inverse_ranks(mode):
    weak = torch.log(torch.tensor([[0.5, 0.1, 0.2, 0.05, 0.08, 0.07]]).double())
    student = torch.zeros(1, 6, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(
        uskd(student, weak, torch.tensor([2]), alpha=0.0, beta=1.0, mu=0.0, mode=mode), student
    )
    # ranks of all six classes; that of the label, 2, is left out
    inverse = torch.tensor([1, 1 / 3, 0, 1 / 6, 1 / 4, 1 / 5], dtype=torch.float64)
    torch.testing.assert_close(gradient[0], 0.2 * (torch.arange(6) != 2) - inverse / inverse.sum())


def test_in_mode_code_an_unlikely_class_is_ranked_low_whatever_the_weak_head_says():
    student, weak = torch.zeros(1, 4), torch.zeros(1, 4)
    student[0, 3], weak[0, 3] = -12.0, 6.0
    gradients = {}
    for mode in ("paper", "code"):
        logits = student.clone().requires_grad_()
        value = uskd(logits, weak, torch.tensor([0]), alpha=0.0, beta=1.0, mu=0.0, mode=mode)
        (gradients[mode],) = torch.autograd.grad(value, logits)
    assert gradients["paper"][0, 3] < gradients["code"][0, 3]


@MODES
def test_the_weak_head_learns_from_its_own_cross_entropy_alone(mode):
    student, weak = both()
    (gradient,) = torch.autograd.grad(uskd(student, weak, TARGET, mu=2.0, mode=mode), weak)
    (expected,) = torch.autograd.grad(2 * F.cross_entropy(weak, TARGET, label_smoothing=0.1), weak)
    torch.testing.assert_close(gradient, expected)


@MODES
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_finite_at_extreme_logits(mode, dtype):
    far = 1e4 * torch.eye(4, 6)
    for logits in (far, -far, far.roll(1, 1), 0 * far):
        student, weak = (logits.to(dtype, copy=True).requires_grad_() for _ in range(2))
        value = uskd(student, weak, TARGET, mode=mode)
        assert value.isfinite()
        assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(value, (student, weak)))


def test_half_precision_is_raised():
    student, weak = (x.detach().bfloat16() for x in both())
    exact = uskd(student.double(), weak.double(), TARGET)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        given = uskd(student, weak, TARGET)
    torch.testing.assert_close(given.double(), exact, rtol=1e-5, atol=0)


def test_a_mixed_label_counts_as_its_likeliest_class():
    student, weak = both()
    mixed = 0.7 * F.one_hot(TARGET, 6).double() + 0.3 * F.one_hot(TARGET.roll(1), 6)
    torch.testing.assert_close(uskd(student, weak, mixed), uskd(student, weak, TARGET))


def test_within_a_distiller():
    module = Distiller(
        student=MLP(hidden=(16, 12)),
        teacher=resnet8(num_classes=10, in_channels=1),
        losses={"ce": CrossEntropy(), "uskd": USKD(layer="blocks.0", alpha=2.0, beta=0.3, mu=0.1, mode="paper")},
        optimizer=torch.optim.SGD,
        input_shape=(1, 8, 8),
    )
    x = torch.randn(4, 1, 8, 8)
    _, terms = module.terms((x, TARGET))
    weak = module.losses["uskd"].head(module.student.blocks[0](x.flatten(1)))
    torch.testing.assert_close(terms["uskd"], uskd(module.student(x), weak, TARGET, 2.0, 0.3, 0.1, "paper"))
    terms["uskd"].backward()
    assert all(p.grad is not None for p in module.parameters() if p.requires_grad)


def test_it_must_be_built():
    with pytest.raises(InputError, match="USKD must be built with the outputs of a dry run before it is called"):
        USKD(layer="a")(Outputs(torch.zeros(4, 6), {"a": torch.zeros(4, 3)}), None, TARGET)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"alpha": -1.0}, "alpha must be 0 or positive, got -1.0"),
        ({"beta": -1.0}, "beta must be 0 or positive, got -1.0"),
        ({"mu": -1.0}, "mu must be 0 or positive, got -1.0"),
        ({"mode": "both"}, "mode must be paper or code, got 'both'"),
    ],
)
def test_bad_hyperparameters(given, message):
    with pytest.raises(InputError, match=message):
        USKD(**{"layer": "a", **given})
