import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import KDSVD
from lit_distill.losses.relational import kdsvd_directions, kdsvd_relation
from lit_distill.losses.relational.kdsvd import top_singular_vectors

LAYERS = {"a": "a", "b": "b"}


def matrices(*size, seed=0):
    return torch.randn(3, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def outputs(seed=0, channels=(4, 6), size=5, dtype=torch.float64):
    features = {
        name: matrices(c, size, size, seed=10 * seed + c).to(dtype) for name, c in zip("ab", channels, strict=True)
    }
    return Outputs(torch.zeros(3, 10, dtype=dtype), features)


def value(student, teacher, **kwargs):
    loss = KDSVD(layers=LAYERS, **kwargs)
    loss.build(student, teacher)
    return loss(student, teacher, torch.zeros(3))


@pytest.mark.parametrize("size", [(7, 4), (4, 7), (5, 5)])
def test_singular_vectors_are_those_of_torch(size):
    x = matrices(*size)
    values, vectors = top_singular_vectors(x, 3)
    _, lengths, axes = torch.linalg.svd(x)
    torch.testing.assert_close(values, lengths[:, :3])
    torch.testing.assert_close((vectors * axes[:, :3].mT).sum(1).abs(), torch.ones(3, 3, dtype=x.dtype))
    assert (vectors.sum(1) >= 0).all()


@pytest.mark.parametrize("size", [(7, 4), (4, 7)])
def test_gradient_of_the_vectors(size):
    weight = matrices(size[1], 2, seed=1)
    assert gradcheck(lambda x: (top_singular_vectors(x, 2)[1] * weight).sum(), matrices(*size).requires_grad_())


@pytest.mark.parametrize("columns", ["channels", "width"])
def test_gradient_of_the_term(columns):
    teacher = outputs(1)

    def of(a, b):
        return value(Outputs(torch.zeros(3, 10), {"a": a, "b": b}), teacher, columns=columns, k=2)

    student = outputs()
    assert gradcheck(of, [student.features[name].requires_grad_() for name in "ab"])


def test_dead_channels_have_a_gradient():
    x = F.relu(matrices(6, 8))
    x[..., 3:] = 0  # five singular values are 0
    x.requires_grad_()
    (gradient,) = torch.autograd.grad((top_singular_vectors(x, 4)[1] * matrices(8, 4, seed=1)).sum(), x)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("fill", [0.0, 1.0, 1e4])
def test_maps_without_structure_stay_finite(fill):
    x = torch.full((3, 4, 5, 5), fill, requires_grad=True)
    student = Outputs(torch.zeros(3, 10), {"a": x, "b": x})
    teacher = outputs(channels=(4, 6), dtype=torch.float32)
    result = value(student, teacher)
    (gradient,) = torch.autograd.grad(result, x)
    assert result.isfinite()
    assert gradient.isfinite().all()


def test_nothing_to_learn_from_oneself():
    same = outputs()
    assert value(same, same, k=2) < 1e-20
    assert value(same, outputs(1), k=2) > 1e-4


@pytest.mark.parametrize("columns", ["channels", "width"])
def test_scale_and_sign_of_the_student_do_not_matter(columns):
    student, teacher = outputs(), outputs(1)
    turned = Outputs(student.logits, {"a": -3 * student.features["a"], "b": 0.1 * student.features["b"]})
    torch.testing.assert_close(value(turned, teacher, columns=columns), value(student, teacher, columns=columns))


def test_where_things_are_does_not_matter():
    student, teacher = outputs(), outputs(1)
    order = torch.randperm(25)
    moved = {name: x.flatten(2)[..., order].unflatten(2, (5, 5)) for name, x in student.features.items()}
    torch.testing.assert_close(value(student._replace(features=moved), teacher), value(student, teacher))


def test_the_candidate_most_like_the_teachers_counts():
    basis = torch.linalg.qr(matrices(6, 6)).Q
    lengths = torch.tensor([9.0, 7.0, 5.0, 3.0, 0.5, 0.1], dtype=torch.float64)
    student = (torch.diag(lengths) @ basis).mT.unsqueeze(2)  # (B, C, 1, P): its directions are the rows of the basis
    teacher = (-4 * basis[:, 2:3]).mT.unsqueeze(2)  # its only one is the student's third
    learnt, taught = kdsvd_directions(student, teacher)
    torch.testing.assert_close(learnt, taught)


def test_relation_one_by_one():
    before, after = matrices(4, 2), matrices(5, 2, seed=1)
    relation = kdsvd_relation(before, after)
    assert relation.shape == (3, 5, 4, 2)
    expected = torch.exp(-((after[1, 3, 1] - before[1, 2, 1]) ** 2) / 8)
    torch.testing.assert_close(relation[1, 3, 2, 1], expected)


def test_other_channels_are_mapped():
    student, teacher = outputs(channels=(3, 6)), outputs(1)
    loss = KDSVD(layers=LAYERS)
    loss.build(student, teacher)
    assert [len(list(bridge.parameters())) for bridge in loss.projectors] == [2, 0]
    loss(student, teacher, torch.zeros(3)).backward()
    assert all(p.grad.abs().max() > 0 for p in loss.parameters())
    assert value(student, teacher, columns="width") > 0


def test_half_precision():
    student, teacher = outputs(), outputs(1)
    exact = value(student, teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(value(outputs(dtype=torch.float32), outputs(1, dtype=torch.float32)).double(), exact)
        rounded = value(outputs(dtype=torch.bfloat16), outputs(1, dtype=torch.bfloat16))
    torch.testing.assert_close(rounded.double(), exact, rtol=5e-2, atol=0)


def test_bad_arguments():
    with pytest.raises(InputError, match="k must be at least 1, got 0"):
        KDSVD(k=0)
    with pytest.raises(InputError, match="columns must be channels or width, got 'code'"):
        KDSVD(columns="code")
    same = outputs()
    with pytest.raises(InputError, match=r"got no build\(\)"):
        KDSVD(layers=LAYERS)(same, same, torch.zeros(3))
    with pytest.raises(InputError, match="layers must be two pairs at least"):
        KDSVD(layers={"a": "a"}).build(same, same)
    with pytest.raises(InputError, match="student and teacher width must be equally many"):
        value(same, outputs(size=4), columns="width")
