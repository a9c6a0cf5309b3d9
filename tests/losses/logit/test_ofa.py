import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lit_distill import Distiller
from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import OFA
from lit_distill.losses.logit import kd, ofa
from lit_distill.losses.logit.ofa import StageHead
from lit_distill.models import MLP, resnet8

TARGET = torch.tensor([0, 3, 2, 1])


def both(batch=4, classes=6):
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, batch, classes, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def said(**features):
    return Outputs(torch.randn(4, 6, requires_grad=True), features)


@pytest.mark.parametrize("mode", ["paper", "code"])
def test_with_exponent_one_it_is_the_cross_entropy_with_the_teacher(mode):
    student, teacher = both()
    entropy = -(teacher.softmax(1) * teacher.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(ofa(student, teacher, TARGET, mode=mode), kd(student, teacher, 1.0) + entropy)


@pytest.mark.parametrize("mode", ["paper", "code"])
def test_a_larger_exponent_enhances_the_label(mode):
    student, teacher = both()
    shares = []
    for eps in (1.0, 1.5, 2.0):
        (gradient,) = torch.autograd.grad(ofa(student, teacher, TARGET, eps, mode=mode), student)
        shares.append(gradient.gather(1, TARGET[:, None]))
    assert (shares[0] > shares[1]).all()
    assert (shares[1] > shares[2]).all()


def test_the_modes_differ_in_the_other_classes_alone():
    student, teacher = both()
    certain = 50.0 * F.one_hot(TARGET, 6).double()
    torch.testing.assert_close(*(ofa(student, certain, TARGET, 1.5, mode=mode) for mode in ("paper", "code")))
    values = [ofa(student, teacher, TARGET, 1.5, mode=mode) for mode in ("paper", "code")]
    p, q = teacher.softmax(1), student.log_softmax(1)
    others = 1 - F.one_hot(TARGET, 6)
    torch.testing.assert_close(values[0] - values[1], -(others * (p - p**1.5) * q).sum(1).mean())


def test_no_square_of_the_temperature():
    student, teacher = both()
    torch.testing.assert_close(ofa(2 * student, 2 * teacher, TARGET, temperature=2.0), ofa(student, teacher, TARGET))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("eps", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("mode", ["paper", "code"])
def test_finite_at_extreme_logits(dtype, eps, mode):
    teacher = 1e4 * torch.eye(4, 6)
    for student in (teacher, -teacher, teacher.roll(1, 1)):
        student = student.to(dtype, copy=True).requires_grad_()
        value = ofa(student, teacher.to(dtype), TARGET, eps, mode=mode)
        (gradient,) = torch.autograd.grad(value, student)
        assert value.isfinite()
        assert gradient.isfinite().all()


def test_gradient():
    student, teacher = both()
    assert torch.autograd.gradcheck(lambda s: ofa(s, teacher, TARGET, 1.3, 2.0), student)


def test_half_precision_is_raised():
    student, teacher = (x.detach().bfloat16() for x in both())
    exact = ofa(student.double(), teacher.double(), TARGET, 1.3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        given = ofa(student, teacher, TARGET, 1.3)
    torch.testing.assert_close(given.double(), exact, rtol=1e-5, atol=0)


def test_a_mixed_label_counts_as_its_likeliest_class():
    student, teacher = both()
    mixed = 0.7 * F.one_hot(TARGET, 6).double() + 0.3 * F.one_hot(TARGET.roll(1), 6)
    torch.testing.assert_close(ofa(student, teacher, mixed, 1.5), ofa(student, teacher, TARGET, 1.5))


def test_a_term_for_each_head_and_one_for_the_logits():
    student, teacher = said(a=torch.randn(4, 3, 8, 8), b=torch.randn(4, 7)), said()
    loss = OFA(stages=["a", "b"], eps=(1.0, 1.2, 1.5), temperature=2.0, mode="paper")
    loss.build(student, teacher)
    loss.eval()
    answers = [loss.heads[0](student.features["a"]), loss.heads[1](student.features["b"]), student.logits]
    terms = [
        ofa(answer, teacher.logits, TARGET, eps, 2.0, "paper")
        for answer, eps in zip(answers, (1.0, 1.2, 1.5), strict=True)
    ]
    torch.testing.assert_close(loss(student, teacher, TARGET), sum(terms))


@pytest.mark.parametrize("shape", [(3, 8, 8), (3, 7, 5), (5, 16), (16,)])
def test_a_head_takes_maps_tokens_and_vectors_and_learns(shape):
    head, feature = StageHead(shape, classes=6, smallest=2), torch.randn(4, *shape, requires_grad=True)
    head(feature).square().sum().backward()
    assert head(feature).shape == (4, 6)
    assert all(parameter.grad is not None for parameter in head.parameters())
    assert feature.grad.abs().max() > 0


@pytest.mark.parametrize(("size", "smallest", "halvings"), [(8, 8, 0), (8, 4, 1), (8, 2, 2), (8, 1, 3), (7, 3, 1)])
def test_maps_shrink_to_the_size_of_the_last_stage(size, smallest, halvings):
    head = StageHead((3, size, size), classes=6, smallest=smallest)
    strides = [module.stride for module in head.net if isinstance(module, nn.Conv2d)]
    assert strides.count((2, 2)) == halvings
    assert head.fc.in_features == 3 * 2**halvings


def test_heads_fit_the_maps_of_a_network():
    student = said(layer1=torch.zeros(4, 16, 8, 8), layer2=torch.zeros(4, 32, 4, 4), layer3=torch.zeros(4, 64, 2, 2))
    loss = OFA(stages=["layer1", "layer2", "layer3"])
    loss.build(student, student)
    assert [head.fc.in_features for head in loss.heads] == [64, 64, 64]


def test_within_a_distiller():
    module = Distiller(
        student=MLP(hidden=(16, 12)),
        teacher=resnet8(num_classes=10, in_channels=1),
        losses={"ofa": OFA(stages=["blocks.0", "blocks.1"])},
        optimizer=torch.optim.SGD,
        input_shape=(1, 8, 8),
    )
    _, terms = module.terms((torch.randn(4, 1, 8, 8), TARGET))
    terms["ofa"].backward()
    trained = {name for name, parameter in module.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert any(name.startswith("losses.ofa.heads.1") for name in module.state_dict())


def test_it_must_be_built():
    with pytest.raises(InputError, match="OFA must be built with the outputs of a dry run before it is called"):
        OFA(stages=["a"])(said(a=torch.randn(4, 3)), said(), TARGET)


def test_a_feature_of_another_shape():
    with pytest.raises(InputError, match=r"stages must give .*, got \(B, 3, 2, 2, 2\)"):
        OFA(stages=["a"]).build(said(a=torch.randn(4, 3, 2, 2, 2)), said())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"stages": []}, r"stages must be module paths of the student, got \[\]"),
        ({"eps": (1.0, 1.0, 1.0)}, r"eps must be one number, or 2: a stage each, logits, got \(1.0, 1.0, 1.0\)"),
        ({"eps": (0.0,)}, r"eps must be positive, got \(0.0,\)"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"mode": "both"}, "mode must be paper or code, got 'both'"),
    ],
)
def test_bad_hyperparameters(given, message):
    with pytest.raises(InputError, match=message):
        OFA(**{"stages": ["a"], **given})
