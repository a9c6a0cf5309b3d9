import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import ReviewKD
from lit_distill.losses.feature import hierarchical_context
from lit_distill.losses.feature.reviewkd import AttentionFusion
from lit_distill.models import ConvNet, Ensemble, resnet8, wrn_16_1


def outputs(*shapes, grad=False):
    return Outputs(torch.zeros(4, 10), {f"l{i}": torch.randn(4, *s).requires_grad_(grad) for i, s in enumerate(shapes)})


def built(student, teacher, **given):
    torch.manual_seed(0)
    loss = ReviewKD(layers=dict(zip(student.features, teacher.features, strict=True)), **given)
    loss.build(student, teacher)
    return loss


@pytest.mark.parametrize(
    ("size", "levels"), [(8, [8, 4, 2, 1]), (5, [5, 4, 2, 1]), (4, [4, 2, 1]), (3, [3, 2, 1]), (2, [2, 1]), (1, [1])]
)
def test_resolutions_by_hand(size, levels):
    student, teacher = torch.randn(2, 4, 3, size, size)
    total = 0
    for k, side in enumerate(levels):
        small = [F.adaptive_avg_pool2d(x, side) for x in (student, teacher)]
        total = total + 0.5**k * F.mse_loss(*small)
    expected = total / sum(0.5**k for k in range(len(levels)))
    torch.testing.assert_close(hierarchical_context(student, teacher), expected)


def test_gradcheck_and_equality():
    student, teacher = torch.randn(2, 2, 3, 6, 5, dtype=torch.float64)
    assert gradcheck(lambda s: hierarchical_context(s, teacher), student.requires_grad_())
    assert hierarchical_context(teacher, teacher) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_maps(dtype):
    student, teacher = (1e4 * torch.randn(2, 4, 3, 8, 8)).to(dtype)
    student.requires_grad_()
    value = hierarchical_context(student, teacher)
    (gradient,) = torch.autograd.grad(value, student)
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert gradient.isfinite().all()


def test_a_fusion_weighs_the_layer_and_the_deeper_ones_at_each_position():
    fusion = AttentionFusion(3, 5, 7, fuse=True)
    x, deeper = torch.randn(4, 3, 8, 6), torch.randn(4, 5, 4, 3)
    predicted, passed = fusion(x, deeper, (8, 6))
    own, up = fusion.enter(x), deeper.repeat_interleave(2, 2).repeat_interleave(2, 3)
    z = fusion.attention(torch.cat([own, up], 1))
    torch.testing.assert_close(passed, z[:, :1] * own + z[:, 1:] * up)
    torch.testing.assert_close(predicted, fusion.leave(passed))
    assert 0 < z.min() < z.max() < 1


def test_what_is_passed_on_has_the_teachers_size():
    for size in ((4, 3), (8, 6), (16, 12)):
        predicted, passed = AttentionFusion(3, 5, 7, fuse=False)(torch.randn(4, 3, 8, 6), None, size)
        assert predicted.shape == (4, 7, *size)
        assert passed.shape == (4, 5, *size)


def test_a_shallow_layer_of_the_teacher_teaches_all_deeper_ones_of_the_student():
    student, teacher = outputs((3, 8, 8), (4, 4, 4), (6,), grad=True), outputs((5, 8, 8), (7, 2, 2), (9,))
    loss = built(student, teacher)
    maps = []
    for fusion in loss.fusions:
        fusion.register_forward_hook(lambda module, args, output: maps.append(output[0]))
    loss(student, teacher, torch.zeros(4))
    predictions = dict(zip((2, 1, 0), maps, strict=True))  # the deepest comes first
    features = list(student.features.values())
    for i, predicted in predictions.items():
        wanted = teacher.features[f"l{i}"]
        assert predicted.shape == (wanted if wanted.dim() == 4 else wanted[..., None, None]).shape
        probe = (predicted * torch.randn_like(predicted)).sum()  # a plain sum of what BatchNorm gives is constant
        gradients = torch.autograd.grad(probe, features, retain_graph=True, allow_unused=True)
        assert [g is not None and bool(g.abs().max() > 0) for g in gradients] == [j >= i for j in range(3)]


def test_value_is_the_sum_over_pairs():
    student, teacher = outputs((3, 8, 8), (4, 4, 4)), outputs((5, 8, 8), (7, 2, 2))
    loss = built(student, teacher).eval()  # with the statistics of a new BatchNorm
    deep, passed = loss.fusions[1](student.features["l1"], None, (2, 2))
    shallow, _ = loss.fusions[0](student.features["l0"], passed, (8, 8))
    expected = hierarchical_context(deep, teacher.features["l1"])
    expected = expected + hierarchical_context(shallow, teacher.features["l0"])
    torch.testing.assert_close(loss(student, teacher, torch.zeros(4)), expected)


@pytest.mark.parametrize(("middle", "width", "expected"), [(None, 6, 6), (None, 600, 512), (3, 6, 3)])
def test_channels_between(middle, width, expected):
    student, teacher = outputs((3, 4, 4), (width,)), outputs((5, 4, 4), (9,))
    loss = built(student, teacher, middle=middle)
    assert [fusion.enter[1].num_features for fusion in loss.fusions] == [expected] * 2
    assert [fusion.attention is None for fusion in loss.fusions] == [False, True]


def test_default_layers():
    loss = ReviewKD()
    loss.choose_layers(ConvNet(depth=3), wrn_16_1())
    assert loss.layers == {
        "blocks.0.relu": "block2.layer.0.relu1:input",
        "blocks.1.relu": "block3.layer.0.relu1:input",
        "blocks.2.relu": "relu:input",
        "flatten": "flatten",
    }
    loss = ReviewKD(teacher="b")
    loss.choose_layers(ConvNet(depth=1), Ensemble({"a": wrn_16_1(), "b": resnet8()}))
    assert loss.layers == {"blocks.0.relu": "members.b.layer3.0.relu2:input", "flatten": "members.b.flatten"}
    loss = ReviewKD(layers={"x": "y"})
    loss.choose_layers(ConvNet(depth=1), resnet8())
    assert loss.layers == {"x": "y"}


def test_messages():
    with pytest.raises(InputError, match="middle must be positive, got 0"):
        ReviewKD(middle=0)
    with pytest.raises(InputError, match="maps must be of one shape"):
        hierarchical_context(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 5))
