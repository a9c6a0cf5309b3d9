import pytest
import torch
from torch.nn import functional as F

from lit_distill import Distiller
from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import DHKD, CrossEntropy
from lit_distill.losses.logit import aligned_gradients, dhkd
from lit_distill.models import MLP, resnet8

TARGET = torch.tensor([0, 3, 2, 1])


def both(batch=4, classes=6):
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, batch, classes, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def test_it_is_the_divergence_of_a_coin_for_each_class():
    student, teacher = both()
    bias = ((student - teacher) / 3).sigmoid()
    coins = torch.distributions.Bernoulli
    divergence = torch.distributions.kl_divergence(coins(torch.full_like(bias, 0.5)), coins(bias))
    torch.testing.assert_close(dhkd(student, teacher, 3.0), 9 * divergence.sum(1).mean())


def test_a_head_that_equals_the_teacher_has_nothing_to_learn():
    student, _ = both()
    value = dhkd(student, student.detach())
    (gradient,) = torch.autograd.grad(value, student)
    torch.testing.assert_close(value, torch.zeros_like(value))
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_unlike_a_softmax_it_sees_a_shift_of_all_logits():
    student, _ = both()
    assert dhkd(student.detach() + 1, student) > 0.1


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_small_differences_count_squared_and_large_ones_absolute(temperature):
    student, teacher = both()
    far = teacher.sign() * 1e3
    near = 1e-3 * (student - teacher)
    squared = near.square().sum(1).mean() / 8
    torch.testing.assert_close(dhkd(teacher + near, teacher, temperature), squared, rtol=1e-5, atol=1e-15)
    absolute = temperature * far.abs().sum(1).mean() / 2
    torch.testing.assert_close(dhkd(teacher + far, teacher, temperature), absolute, rtol=1e-2, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_at_any_distance_there_is_a_gradient(dtype):
    teacher = 1e4 * torch.eye(4, 6)
    student = (-teacher).to(dtype).requires_grad_()
    value = dhkd(student, teacher.to(dtype))
    (gradient,) = torch.autograd.grad(value, student)
    assert value.isfinite()
    torch.testing.assert_close(gradient, -0.25 * torch.eye(4, 6, dtype=dtype))


def test_gradient():
    student, teacher = both()
    assert torch.autograd.gradcheck(lambda s: dhkd(s, teacher, 1.5), student)


def test_half_precision_is_raised():
    student, teacher = (x.detach().bfloat16() for x in both())
    exact = dhkd(student.double(), teacher.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        given = dhkd(student, teacher)
    torch.testing.assert_close(given.double(), exact, rtol=1e-5, atol=0)


def gradients(seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in ((3, 2), (4,), ())]


def flat(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors])


def test_gradients_that_agree_are_added():
    ce = gradients(0)
    kd = [2 * gradient for gradient in ce]
    torch.testing.assert_close(flat(aligned_gradients(ce, kd)), 3 * flat(ce))


def test_of_gradients_that_contradict_only_the_second_changes():
    ce, kd = gradients(0), gradients(1)
    if flat(ce) @ flat(kd) > 0:
        kd = [-gradient for gradient in kd]
    left = flat(aligned_gradients(ce, kd)) - flat(ce)
    torch.testing.assert_close(left @ flat(ce), torch.tensor(0.0), atol=1e-5, rtol=0)
    moved = left - flat(kd)
    torch.testing.assert_close(F.cosine_similarity(moved, flat(ce), dim=0), torch.tensor(1.0))


def test_gradients_in_half_precision_and_of_nothing():
    big = [torch.full((1000,), 300.0, dtype=torch.float16)]
    against = [-2 * big[0]]
    assert torch.equal(aligned_gradients(big, against)[0], big[0])
    nothing = [torch.zeros(3)]
    assert torch.equal(aligned_gradients(nothing, [torch.ones(3)])[0], torch.ones(3))


def test_gradients_must_be_of_the_same_parameters():
    with pytest.raises(
        InputError, match=r"distillation must be of shapes \[\(3,\)\], got gradients of shapes \[\(2,\)\]"
    ):
        aligned_gradients([torch.zeros(3)], [torch.zeros(2)])


@pytest.mark.parametrize("hidden", [0, 7])
def test_within_a_distiller(hidden):
    module = Distiller(
        student=MLP(hidden=(16, 12)),
        teacher=resnet8(num_classes=10, in_channels=1),
        losses={"ce": CrossEntropy(), "dhkd": DHKD(layer="blocks.1", temperature=1.5, hidden=hidden)},
        optimizer=torch.optim.SGD,
        input_shape=(1, 8, 8),
    ).eval()
    x = torch.randn(4, 1, 8, 8)
    _, terms = module.terms((x, TARGET))
    head = module.losses["dhkd"].head(module.student.blocks(x.flatten(1)))
    torch.testing.assert_close(terms["dhkd"], dhkd(head, module.teacher(x), 1.5))
    terms["dhkd"].backward()
    assert module.student.fc.weight.grad is None
    assert module.student.blocks[0].linear.weight.grad.abs().max() > 0


def test_it_must_be_built():
    with pytest.raises(InputError, match="DHKD must be built with the outputs of a dry run before it is called"):
        DHKD(layer="a")(Outputs(torch.zeros(4, 6), {"a": torch.zeros(4, 3)}), Outputs(torch.zeros(4, 6)), TARGET)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"hidden": -1}, "hidden must be 0 or positive, got -1"),
    ],
)
def test_bad_hyperparameters(given, message):
    with pytest.raises(InputError, match=message):
        DHKD(layer="a", **given)
