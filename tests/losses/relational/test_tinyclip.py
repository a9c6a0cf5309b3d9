import math

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import TinyCLIP
from lit_distill.losses.relational import tinyclip

TOWERS = {"image": "image", "text": "text"}


def unit(*size, seed=0):
    return F.normalize(torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def towers(batch=5):
    """Student's image and text, teacher's image and text."""
    return [unit(batch, width, seed=seed) for seed, width in enumerate((4, 4, 6, 6))]


def said(image, text):
    return Outputs(torch.zeros(len(image), 3), {"image": image, "text": text})


def one_by_one(learnt, taught):
    rows = [-(p.softmax(0) * q.log_softmax(0)).sum() for q, p in zip(learnt, taught, strict=True)]
    return torch.stack(rows).mean()


def test_cross_entropy_of_rows_and_columns():
    u, v, x, y = towers()
    learnt, taught = u @ v.T / 0.3, x @ y.T / 0.1
    expected = (one_by_one(learnt, taught) + one_by_one(learnt.T, taught.T)) / 2
    torch.testing.assert_close(tinyclip(u, v, x, y, 0.3, 0.1), expected)


def test_a_student_like_its_teacher_has_its_entropy_and_no_gradient():
    _, _, x, y = towers()
    image = x.clone().requires_grad_()
    value = tinyclip(image, y, x, y, 0.2, 0.2)
    p, q = (z.softmax(1) for z in (x @ y.T / 0.2, y @ x.T / 0.2))
    torch.testing.assert_close(value, -(p * p.log() + q * q.log()).sum(1).mean() / 2)
    (gradient,) = torch.autograd.grad(value, image)
    assert gradient.abs().max() < 1e-14


def test_nothing_is_better_than_the_teacher():
    u, v, x, y = towers()
    assert tinyclip(u, v, x, y, 0.2, 0.2) > tinyclip(x, y, x, y, 0.2, 0.2) + 0.01


def test_towers_change_places():
    u, v, x, y = towers()
    torch.testing.assert_close(tinyclip(v, u, y, x), tinyclip(u, v, x, y))


def test_rotation_and_order_do_not_matter():
    u, v, x, y = towers()
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    torch.testing.assert_close(tinyclip(u @ turn, v @ turn, x, y), tinyclip(u, v, x, y))
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(tinyclip(*(z[order] for z in (u, v, x, y))), tinyclip(u, v, x, y))


def test_a_certain_teacher_is_the_labels_of_clip():
    u, v, _, _ = towers(4)
    eye = torch.eye(4, dtype=torch.float64)
    labels, logits = torch.arange(4), u @ v.T / 0.5
    clip = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    torch.testing.assert_close(tinyclip(u, v, eye, eye, 0.5, 1e-3), clip)


def test_equal_temperatures_by_default():
    u, v, x, y = towers()
    loss = TinyCLIP(temperature=0.2, layers=TOWERS)
    torch.testing.assert_close(loss(said(u, v), said(x, y), None), tinyclip(u, v, x, y, 0.2, 0.2))
    loss = TinyCLIP(temperature=0.2, teacher_temperature=0.05, layers=TOWERS)
    torch.testing.assert_close(loss(said(u, v), said(x, y), None), tinyclip(u, v, x, y, 0.2, 0.05))


def test_gradcheck():
    u, v, x, y = towers()
    temperature = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    assert gradcheck(
        lambda a, b, t: tinyclip(a, b, x, y, t, 0.3), (u.requires_grad_(), v.requires_grad_(), temperature)
    )


def test_a_learned_temperature_of_the_term():
    u, v, x, y = towers()
    loss = TinyCLIP(layers=TOWERS)
    loss.temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    loss(said(u, v), said(x, y), None).backward()
    assert loss.temperature.grad != 0


def test_length_does_not_matter_to_the_term():
    u, v, x, y = towers()
    loss = TinyCLIP(layers=TOWERS)
    torch.testing.assert_close(loss(said(3 * u, v), said(x, 7 * y), None), loss(said(u, v), said(x, y), None))


@pytest.mark.parametrize("shape", [(4, 5, 2, 3), (4, 6, 5)])
def test_maps_and_tokens_are_averaged(shape):
    x = torch.randn(shape)
    vectors = x.mean((2, 3)) if x.dim() == 4 else x.mean(1)
    loss, other = TinyCLIP(layers=TOWERS), torch.randn(4, 5)
    torch.testing.assert_close(
        loss(said(x, other), said(other, x), None), loss(said(vectors, other), said(other, vectors), None)
    )


def test_one_pair_is_two_stacked_views():
    u, v, x, y = towers()
    learnt, taught = (Outputs(torch.zeros(10, 3), {"pool": torch.cat(two)}) for two in ((u, v), (x, y)))
    loss = TinyCLIP(layers={"pool": "pool"})
    torch.testing.assert_close(loss(learnt, taught, None), tinyclip(u, v, x, y))
    odd = Outputs(torch.zeros(3, 3), {"pool": torch.randn(3, 4)})
    with pytest.raises(InputError, match=r"two stacked views of each sample \(strong_view: true\), got 3"):
        loss(odd, odd, None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_affinities(dtype):
    x = torch.eye(3, dtype=dtype).requires_grad_()
    value = tinyclip(x, -x, x, x, 1e-4, 1e-4)
    (gradient,) = torch.autograd.grad(value, x)
    assert math.isclose(value.item(), 1e4, rel_tol=1e-2)
    assert gradient.isfinite().all()


def test_autocast():
    u, v, x, y = (z.float() for z in towers(32))
    exact = TinyCLIP(layers=TOWERS)(said(u, v), said(x, y), None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(TinyCLIP(layers=TOWERS)(said(u, v), said(x, y), None), exact)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"teacher_temperature": -1.0}, "teacher_temperature must be positive, got -1.0"),
        ({"layers": {"a": "a", "b": "b", "c": "c"}}, "layers must be two towers, or one pair"),
    ],
)
def test_bad_hyperparameters(arguments, message):
    with pytest.raises(InputError, match=message):
        TinyCLIP(**arguments)


def test_towers_of_other_samples():
    u, v, x, y = towers()
    with pytest.raises(InputError, match=r"embeddings of both towers must be \(B, D_s\)"):
        tinyclip(u, v, x[:3], y)
    with pytest.raises(InputError, match="embeddings of both towers"):
        tinyclip(u, x, x, y)
