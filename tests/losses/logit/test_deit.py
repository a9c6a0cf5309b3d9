import pytest
import torch
from timm.models.deit import VisionTransformerDistilled
from torch import nn
from torch.nn import functional as F

from lit_distill import Distiller
from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import DeiTHard, DeiTSoft
from lit_distill.losses.logit import deit_hard, deit_soft, kd
from lit_distill.models import resnet8

TARGET = torch.tensor([0, 3, 2, 1])
FUNCTIONS = pytest.mark.parametrize("function", [deit_hard, deit_soft])


def three(batch=4, classes=6):
    generator = torch.Generator().manual_seed(0)
    class_head, token_head, teacher = torch.randn(3, batch, classes, generator=generator, dtype=torch.float64)
    return class_head.requires_grad_(), token_head.requires_grad_(), teacher


def vit(**given):
    torch.manual_seed(0)
    sizes = {"img_size": 8, "patch_size": 4, "in_chans": 1, "num_classes": 10, "embed_dim": 8, "depth": 1}
    return VisionTransformerDistilled(**sizes, num_heads=2, **given)


@FUNCTIONS
def test_each_head_learns_from_one_of_the_two(function):
    class_head, token_head, teacher = three()
    of_labels = function(class_head, token_head, teacher, TARGET, alpha=0.0)
    of_teacher = function(class_head, token_head, teacher, TARGET, alpha=1.0)
    torch.testing.assert_close(of_labels, F.cross_entropy(class_head, TARGET))
    (class_gradient,) = torch.autograd.grad(of_teacher, class_head, retain_graph=True)
    assert class_gradient.abs().max() == 0
    half = function(class_head, token_head, teacher, TARGET, alpha=0.5)
    torch.testing.assert_close(half, (of_labels + of_teacher) / 2)


def test_hard_is_the_cross_entropy_with_the_teachers_choice():
    class_head, token_head, teacher = three()
    value = deit_hard(class_head, token_head, teacher, TARGET, alpha=1.0)
    torch.testing.assert_close(value, F.cross_entropy(token_head, teacher.argmax(1)))


def test_soft_is_kd_and_the_released_code_divides_it_by_the_classes():
    class_head, token_head, teacher = three()
    values = [
        deit_soft(class_head, token_head, teacher, TARGET, alpha=1.0, temperature=2.0, mode=mode)
        for mode in ("paper", "code")
    ]
    torch.testing.assert_close(values, [kd(token_head, teacher, 2.0), kd(token_head, teacher, 2.0) / 6])


@FUNCTIONS
def test_labels_may_be_mixed(function):
    class_head, token_head, teacher = three()
    mixed = 0.7 * F.one_hot(TARGET, 6).double() + 0.3 * F.one_hot(TARGET.roll(1), 6)
    value = function(class_head, token_head, teacher, mixed)
    parts = [function(class_head, token_head, teacher, target) for target in (TARGET, TARGET.roll(1))]
    torch.testing.assert_close(value, 0.7 * parts[0] + 0.3 * parts[1])


@FUNCTIONS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_finite_at_extreme_logits(function, dtype):
    far = 1e4 * torch.eye(4, 6)
    for logits in (far, -far, far.roll(1, 1)):
        heads = [logits.to(dtype, copy=True).requires_grad_() for _ in range(2)]
        value = function(*heads, far.to(dtype), TARGET)
        assert value.isfinite()
        assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(value, heads))


@FUNCTIONS
def test_half_precision_is_raised(function):
    heads_and_teacher = [x.detach().bfloat16() for x in three()]
    exact = function(*[x.double() for x in heads_and_teacher], TARGET)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        given = function(*heads_and_teacher, TARGET)
    torch.testing.assert_close(given.double(), exact, rtol=1e-5, atol=0)


@FUNCTIONS
def test_classes_must_agree(function):
    class_head, token_head, teacher = three()
    with pytest.raises(InputError, match="student and teacher logits must be of one shape"):
        function(class_head, token_head, teacher[:, :5], TARGET)


def test_within_a_distiller():
    terms = {"hard": DeiTHard(alpha=0.3), "soft": DeiTSoft(alpha=0.2, temperature=2.0, mode="code")}
    module = Distiller(
        student=vit(),
        teacher=resnet8(num_classes=10, in_channels=1),
        losses=terms,
        optimizer=torch.optim.SGD,
        input_shape=(1, 8, 8),
    )
    x = torch.randn(4, 1, 8, 8)
    student, values = module.train().terms((x, TARGET))
    heads, teacher = [student.features[path] for path in ("head", "head_dist")], module.teacher(x)
    torch.testing.assert_close(student.logits, (heads[0] + heads[1]) / 2)
    torch.testing.assert_close(values["hard"], deit_hard(*heads, teacher, TARGET, 0.3))
    torch.testing.assert_close(values["soft"], deit_soft(*heads, teacher, TARGET, 0.2, 2.0, "code"))
    values["hard"].backward()
    assert module.student.dist_token.grad.abs().max() > 0


def test_a_student_that_answers_with_a_pair_is_refused():
    student = vit()
    student.set_distilled_training(True)
    with pytest.raises(InputError, match=r"student must answer with one tensor in training too, .*; call set_dist"):
        DeiTHard().attach(student, nn.Identity())


def test_heads_of_other_names():
    features = {"a": torch.randn(4, 6), "b": torch.randn(4, 6)}
    teacher = torch.randn(4, 6)
    value = DeiTHard(class_head="b", token_head="a")(Outputs(teacher, features), Outputs(teacher), TARGET)
    torch.testing.assert_close(value, deit_hard(features["b"], features["a"], teacher, TARGET))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DeiTHard(alpha=1.1), r"alpha must be in \[0, 1\], got 1.1"),
        (lambda: DeiTHard(token_head="head"), "token_head must be another path than class_head, got 'head'"),
        (lambda: DeiTSoft(temperature=0.0), "temperature must be positive, got 0.0"),
        (lambda: DeiTSoft(mode="both"), "mode must be paper or code, got 'both'"),
    ],
)
def test_bad_hyperparameters(make, message):
    with pytest.raises(InputError, match=message):
        make()
