import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lit_distill import Distiller
from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import MEALV2
from lit_distill.losses.logit import kd, meal_v2
from lit_distill.models import MLP, Ensemble

MODES = pytest.mark.parametrize("mode", ["paper", "code"])


def both(batch=6, classes=9):
    generator = torch.Generator().manual_seed(0)
    student, teacher = 2 * torch.randn(2, batch, classes, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def built(classes=9, seed=0, **given):
    torch.manual_seed(seed)
    loss = MEALV2(**given)
    logits = Outputs(torch.zeros(2, classes))
    loss.build(logits, logits)
    return loss.double()


def call(loss, student, teacher):
    return loss(Outputs(student), Outputs(teacher), None)


def layers(loss, x):
    """What the discriminator says, from its weights."""
    linear = [module for module in loss.discriminator if isinstance(module, nn.Linear)]
    assert len(linear) == 3
    for layer in linear[:2]:
        x = (x @ layer.weight.T + layer.bias).clamp(min=0)
    return x @ linear[2].weight.T + linear[2].bias


def test_the_formula_of_the_paper():
    student, teacher = both()
    loss = built(shrink=2, adversary=0.7)
    log_q, log_p = student.log_softmax(1), teacher.log_softmax(1)
    divergence = (log_p.exp() * (log_p - log_q)).sum(1).mean()
    of_student, of_teacher = layers(loss, log_q).sigmoid(), layers(loss, log_p).sigmoid()
    told_apart = -torch.cat([of_student.log(), (1 - of_teacher).log()]).mean()
    torch.testing.assert_close(call(loss, student, teacher), divergence + 0.7 * told_apart)


def test_the_released_loss_but_for_the_teachers_entropy():
    student, teacher = both()
    loss = built(shrink=2, mode="code")
    soft, entropy = teacher.softmax(1), torch.special.entr(teacher.softmax(1)).sum(1).mean()
    similarity = -(soft * student.log_softmax(1)).sum(1).mean()
    scores = layers(loss, torch.cat([student, teacher]).log_softmax(1)).clamp(min=0)
    labels = torch.tensor([[1.0, 0.0]] * 6 + [[0.0, 1.0]] * 6, dtype=torch.float64)
    released = similarity + F.binary_cross_entropy(scores.sigmoid(), labels)
    assert scores.max() > 0
    torch.testing.assert_close(call(loss, student, teacher), released - entropy)


def test_soft_labels_are_the_mean_of_the_teachers_probabilities():
    student, _ = both()
    torch.manual_seed(0)
    members = {name: nn.Linear(4, 9).double() for name in "abc"}
    x = torch.randn(6, 4).double()
    teacher = Ensemble(members, average="probabilities").double()(x)
    mean = sum(member(x).softmax(1) for member in members.values()) / 3
    (gradient,) = torch.autograd.grad(call(built(adversary=0), student, teacher.detach()), student)
    (expected,) = torch.autograd.grad(F.cross_entropy(student, mean.detach()), student)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)


def test_without_an_adversary_it_is_kd():
    student, teacher = both()
    torch.testing.assert_close(call(built(adversary=0), student, teacher), kd(student, teacher, temperature=1.0))


@MODES
def test_offsets_of_the_logits_tell_nothing(mode):
    student, teacher = both()
    loss = built(shrink=2, mode=mode)
    shift = torch.arange(6.0).double().unsqueeze(1)
    torch.testing.assert_close(call(loss, student + 3, teacher - shift), call(loss, student, teacher))


@MODES
def test_student_and_discriminator_descend_the_same_cross_entropy(mode):
    student, teacher = both()
    loss = built(shrink=1, mode=mode)

    def told_apart(student):
        return call(loss, student, teacher) - kd(student, teacher, temperature=1.0)

    before = told_apart(student)
    parameters = [student, *loss.parameters()]
    for parameter, gradient in zip(parameters, torch.autograd.grad(before, parameters), strict=True):
        assert gradient.abs().max() > 0
        with torch.no_grad():
            parameter -= 1e-3 * gradient
            assert told_apart(student) < before
            parameter += 1e-3 * gradient


@pytest.mark.parametrize(
    ("classes", "shrink", "widths"), [(1000, 8, [125, 15]), (10, 8, [2, 2]), (10, 2, [5, 2]), (2, 1, [2, 2])]
)
def test_widths_of_the_discriminator(classes, shrink, widths):
    paper, code = (built(classes=classes, shrink=shrink, mode=mode).discriminator for mode in ("paper", "code"))
    assert [module.out_features for module in paper if isinstance(module, nn.Linear)] == [*widths, 1]
    assert [module.out_features for module in code if isinstance(module, nn.Linear)] == [*widths, 2]


def test_no_probability_of_the_released_discriminator_falls_below_one_half():
    student, teacher = (1e3 * logits for logits in both())
    values = [call(built(seed=seed, shrink=1, mode="code"), student, teacher) for seed in range(10)]
    divergence = kd(student, teacher, temperature=1.0)
    assert all(value - divergence >= torch.tensor(2.0).log() / 2 - 1e-6 for value in values)


@MODES
def test_gradient(mode):
    student, teacher = both()
    loss = built(shrink=2, mode=mode)
    assert torch.autograd.gradcheck(lambda s: call(loss, s, teacher), student)


@MODES
def test_where_all_of_training_is_in_half_precision(mode):
    student, teacher = (logits.detach().bfloat16() for logits in both())
    loss = built(shrink=2, mode=mode)
    exact = call(loss, student.double(), teacher.double())
    value = call(loss.bfloat16(), student.requires_grad_(), teacher)
    value.backward()
    assert value.dtype is torch.float32
    torch.testing.assert_close(value.double(), exact, rtol=2e-2, atol=0)
    assert all(p.grad.isfinite().all() for p in loss.parameters())


class Undecided(nn.Module):
    def forward(self, x):
        return torch.zeros_like(x[:, :1])


def test_a_discriminator_without_parameters_that_knows_nothing():
    student, teacher = both()
    told_apart = meal_v2(student, teacher, Undecided()) - kd(student, teacher, 1.0)
    torch.testing.assert_close(told_apart, torch.tensor(2.0).double().log())


def test_within_a_distiller():
    teachers = Ensemble({"a": MLP(hidden=(16,)), "b": MLP(hidden=(12,))}, average="probabilities")
    module = Distiller(
        student=MLP(hidden=(8,)),
        teacher=teachers,
        losses={"mealv2": MEALV2(shrink=2, adversary=0.5)},
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        input_shape=(1, 8, 8),
    )
    x = torch.randn(4, 1, 8, 8)
    _, terms = module.terms((x, torch.tensor([0, 3, 2, 1])))
    discriminator = module.losses["mealv2"].discriminator
    torch.testing.assert_close(terms["mealv2"], meal_v2(module.student(x), teachers(x), discriminator, 0.5))
    (group,) = module.configure_optimizers().param_groups
    assert {id(p) for p in group["params"]} == {
        id(p) for net in (module.student, discriminator) for p in net.parameters()
    }
    terms["mealv2"].backward()
    assert all(p.grad is not None for p in group["params"])
    assert any(name.startswith("losses.mealv2.discriminator") for name in module.state_dict())


def test_it_must_be_built():
    with pytest.raises(InputError, match="MEALV2 must be built with the outputs of a dry run before it is called"):
        call(MEALV2(), *both())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"adversary": -1.0}, "adversary must be 0 or positive, got -1.0"),
        ({"shrink": 0}, "shrink must be at least 1, got 0"),
        ({"mode": "gan"}, "mode must be 'paper' or 'code', got 'gan'"),
    ],
)
def test_bad_hyperparameters(given, message):
    with pytest.raises(InputError, match=message):
        MEALV2(**given)
