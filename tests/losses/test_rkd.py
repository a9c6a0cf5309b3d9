import pytest
import torch
from torch.autograd import gradcheck

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import RKD
from lit_distill.losses.relational import rkd_angle, rkd_distance

PARTS = [rkd_distance, rkd_angle]
parts = pytest.mark.parametrize("part", PARTS)


def embeddings(batch=6, student=5, teacher=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, student, generator=generator, dtype=torch.float64)
    y = torch.randn(batch, teacher, generator=generator, dtype=torch.float64)
    return x.requires_grad_(), y


def rotation(size):
    return torch.linalg.qr(torch.randn(size, size, dtype=torch.float64)).Q


@parts
def test_gradcheck(part):
    student, teacher = embeddings()
    assert gradcheck(lambda s: part(s, teacher), student)


@parts
def test_scale_rotation_and_place_do_not_matter(part):
    student, teacher = embeddings()
    moved = 3.5 * student @ rotation(5) + 11.0
    torch.testing.assert_close(part(moved, teacher), part(student, teacher))
    assert part(moved, student.detach()) < 1e-12
    assert part(student, teacher) > 1e-3


@parts
def test_samples_in_another_order(part):
    student, teacher = embeddings()
    order = torch.randperm(6)
    torch.testing.assert_close(part(student[order], teacher[order]), part(student, teacher))
    assert (part(student[order], teacher) - part(student, teacher)).abs() > 1e-4


def test_pairs_and_triples_one_by_one():
    student, teacher = embeddings(batch=4)

    def smooth_l1(x):
        return x**2 / 2 if abs(x) < 1 else abs(x) - 0.5

    def distances(x):
        pairs = {(i, j): (x[i] - x[j]).norm() for i in range(4) for j in range(4) if i != j}
        mean = sum(pairs.values()) / len(pairs)
        return {pair: distance / mean for pair, distance in pairs.items()}

    s, t = distances(student), distances(teacher)
    torch.testing.assert_close(rkd_distance(student, teacher), sum(smooth_l1(s[k] - t[k]) for k in s) / 16)

    def cosine(x, a, i, j):
        return torch.cosine_similarity(x[i] - x[a], x[j] - x[a], dim=0)

    triples = [(a, i, j) for a in range(4) for i in range(4) for j in range(4) if a not in (i, j)]
    angles = sum(smooth_l1(cosine(student, *k) - cosine(teacher, *k)) for k in triples) / 64
    torch.testing.assert_close(rkd_angle(student, teacher), angles)


@parts
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_small_and_collapsed_batches_stay_finite(part, batch):
    student = torch.ones(batch, 4, requires_grad=True)
    value = part(student, torch.randn(batch, 4))
    (gradient,) = torch.autograd.grad(value, student)
    assert value.isfinite()
    assert gradient.isfinite().all()
    if batch == 1:
        assert value == 0


@parts
def test_tight_cluster_far_from_the_origin_under_autocast(part):
    # spread 0.05 at norm 48: |a|^2 + |b|^2 - 2ab has no correct digit in bfloat16, and 4 in float32
    generator = torch.Generator().manual_seed(0)
    centre = torch.randn(256, generator=generator) * 3
    student = centre + 0.05 * torch.randn(32, 256, generator=generator)
    teacher = centre + 0.05 * torch.randn(32, 256, generator=generator)
    exact = part(student.double(), teacher.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        given = part(student, teacher)
    assert given.dtype == torch.float32
    torch.testing.assert_close(given.double(), exact, rtol=1e-5, atol=0)


@parts
@pytest.mark.parametrize("autocast", [True, False])
def test_half_precision_embeddings_are_raised(part, autocast):
    student, teacher = (x.detach().bfloat16() for x in embeddings(batch=16))
    exact = part(student.double(), teacher.double())
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        given = part(student, teacher)
    torch.testing.assert_close(given.double(), exact, rtol=1e-5, atol=0)


def outputs(feature):
    return Outputs(torch.zeros(len(feature), 10), {"layer": feature})


def test_half_precision_maps_are_pooled_in_float32():
    generator = torch.Generator().manual_seed(0)
    student, teacher = ((3 + 0.05 * torch.randn(16, 64, 8, 8, generator=generator)).bfloat16() for _ in range(2))
    loss = RKD(layers={"layer": "layer"})
    exact = loss(outputs(student.double()), outputs(teacher.double()), torch.zeros(16))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        given = loss(outputs(student), outputs(teacher), torch.zeros(16))
    torch.testing.assert_close(given.double(), exact, rtol=1e-2, atol=0)


def test_maps_are_averaged_over_their_positions():
    student, teacher = torch.randn(4, 3, 8, 8), torch.randn(4, 5, 4, 4)
    loss = RKD(layers={"layer": "layer"})
    value = loss(outputs(student), outputs(teacher), torch.zeros(4))
    s, t = student.mean((2, 3)), teacher.mean((2, 3))
    torch.testing.assert_close(value, 25 * rkd_distance(s, t) + 50 * rkd_angle(s, t))


def test_weights_of_the_parts_and_sum_over_pairs():
    student, teacher = embeddings()
    s, t = outputs(student), outputs(teacher)
    only_distance = RKD(distance_weight=2.0, angle_weight=0.0, layers={"layer": "layer"})
    torch.testing.assert_close(only_distance(s, t, torch.zeros(6)), 2 * rkd_distance(student, teacher))
    both = Outputs(torch.zeros(6, 10), {"layer": student, "other": student})
    twice = RKD(distance_weight=2.0, angle_weight=0.0, layers={"layer": "layer", "other": "layer"})
    torch.testing.assert_close(twice(both, t, torch.zeros(6)), 4 * rkd_distance(student, teacher))


@pytest.mark.parametrize("dimensions", [(4,), (4, 3, 2), (4, 3, 2, 2, 2)])
def test_other_shapes_are_refused(dimensions):
    x = outputs(torch.zeros(dimensions))
    with pytest.raises(InputError, match=r"layers must name vectors \(B, D\) or maps \(B, C, H, W\) for RKD, got"):
        RKD(layers={"layer": "layer"})(x, x, torch.zeros(4))


@parts
def test_embeddings_must_be_of_the_same_samples(part):
    with pytest.raises(InputError, match=r"vectors of the same samples, got \(4, 3\) and \(5, 3\)"):
        part(torch.zeros(4, 3), torch.zeros(5, 3))


def test_bad_hyperparameters():
    with pytest.raises(InputError, match="distance_weight must be 0 or positive, got -1"):
        RKD(distance_weight=-1, layers={"a": "a"})
    with pytest.raises(InputError, match="angle_weight must be 0 or positive, got -1"):
        RKD(angle_weight=-1, layers={"a": "a"})
