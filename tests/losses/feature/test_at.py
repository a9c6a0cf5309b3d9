import pytest
import torch
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import AT
from lit_distill.losses.feature import at, attention


def outputs(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Outputs(torch.zeros(4, 10), {f"l{i}": torch.rand(4, *s, generator=generator) for i, s in enumerate(shapes)})


def test_attention_is_a_unit_vector_over_positions():
    activation = torch.randn(4, 3, 2, 5)
    q = attention(activation)
    assert q.shape == (4, 10)
    torch.testing.assert_close(q.norm(dim=1), torch.ones(4))
    position = activation[:, :, 1, 2].square().sum(1)
    torch.testing.assert_close(q[:, 7] / q[:, 0], position / activation[:, :, 0, 0].square().sum(1))


def test_a_large_power_sees_the_strongest_channel():
    torch.manual_seed(0)
    activation = torch.randn(4, 3, 2, 5, dtype=torch.float64)
    strongest = F.normalize(activation.abs().amax(1).pow(200).flatten(1))
    torch.testing.assert_close(attention(activation, p=200), strongest, rtol=0, atol=0.05)
    signs = torch.randint(2, activation.shape) * 2 - 1
    for p in (1, 2, 3):
        torch.testing.assert_close(attention(signs * activation, p), attention(activation, p))


def test_the_modes_by_hand():
    student, teacher = torch.rand(4, 3, 2, 5), torch.rand(4, 6, 2, 5)
    distances = (attention(student) - attention(teacher)).norm(dim=1)
    torch.testing.assert_close(at(student, teacher, mode="paper"), distances.mean())
    torch.testing.assert_close(at(student, teacher), distances.square().mean() / 10)


@pytest.mark.parametrize("sizes", [((8, 8), (4, 4)), ((4, 4), (8, 8)), ((9, 4), (5, 6))])
def test_the_larger_map_is_averaged_before_its_powers_are_taken(sizes):
    student, teacher = (torch.randn(4, 3, *size) for size in sizes)
    size = tuple(map(min, *sizes))
    expected = at(F.adaptive_avg_pool2d(student, size), F.adaptive_avg_pool2d(teacher, size))
    torch.testing.assert_close(at(student, teacher), expected)


def test_gradient_of_the_norm_is_zero_at_equality():
    student = torch.rand(4, 3, 2, 5, requires_grad=True)
    (gradient,) = torch.autograd.grad(at(student, student.detach(), mode="paper"), student)
    assert gradient.abs().max() == 0


def test_sum_over_pairs_and_tokens_as_maps():
    student, teacher = outputs((3, 8, 8), (6, 4, 4)), outputs((5, 8, 8), (17, 5))
    loss = AT(layers={"l0": "l0", "l1": "l1"}, p=3, mode="paper")
    assert not list(loss.parameters())
    taught = teacher.features["l1"][:, 1:].transpose(1, 2).unflatten(2, (4, 4))  # without the class token
    expected = [
        at(student.features["l0"], teacher.features["l0"], 3, "paper"),
        at(student.features["l1"], taught, 3, "paper"),
    ]
    torch.testing.assert_close(loss(student, teacher, torch.zeros(4)), sum(expected))


def test_bad_hyperparameters():
    with pytest.raises(InputError, match=r"p must be at least 1, got 0\.5"):
        AT(layers={"a": "a"}, p=0.5)
    with pytest.raises(InputError, match="mode must be paper or code, got 'both'"):
        AT(layers={"a": "a"}, mode="both")
