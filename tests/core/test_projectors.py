import pytest
import torch

from lit_distill.core.projectors import (
    BatchNormProjector,
    ConvProjector,
    LinearProjector,
    MLPProjector,
    OrthogonalProjector,
)
from lit_distill.errors import InputError

SHAPES = [((4, 6, 5, 5), (4, 8, 5, 5)), ((4, 7, 6), (4, 7, 8)), ((4, 6), (4, 8))]


@pytest.mark.parametrize("kind", [LinearProjector, BatchNormProjector, MLPProjector, OrthogonalProjector])
@pytest.mark.parametrize(("student", "teacher"), SHAPES)
def test_projects_maps_tokens_and_vectors_to_the_teachers_channels(kind, student, teacher):
    projector = kind()
    projector.build(torch.zeros(student), torch.zeros(teacher))
    x = torch.randn(student, requires_grad=True)
    y = projector(x)
    assert y.shape == teacher
    y.square().sum().backward()
    assert x.grad is not None
    assert all(p.grad is not None for p in projector.parameters())


def test_a_pointwise_projector_is_a_linear_map_of_the_channels():
    maps = LinearProjector()
    maps.build(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 4, 4))
    x = torch.randn(2, 3, 4, 4)
    weight = maps.net.weight[:, :, 0, 0]
    expected = torch.einsum("oc,bchw->bohw", weight, x) + maps.net.bias[:, None, None]
    assert torch.allclose(maps(x), expected, atol=1e-6)


@pytest.mark.parametrize("decay", [0.0, 1e-8, 0.1])
@pytest.mark.parametrize(("narrow", "wide"), [(3, 5), (5, 3), (4, 4)])
def test_orthogonal_rows_or_columns_survive_training(narrow, wide, decay):
    projector = OrthogonalProjector()
    projector.build(torch.zeros(2, narrow), torch.zeros(2, wide))
    optimizer = torch.optim.SGD(projector.parameters(), lr=0.5, weight_decay=decay)
    for _ in range(3):
        optimizer.zero_grad()
        (projector(torch.randn(4, narrow)) - 1).square().mean().backward()
        optimizer.step()
    weight = projector.net.weight
    gram = weight.T @ weight if wide >= narrow else weight @ weight.T
    assert torch.allclose(gram, torch.eye(min(narrow, wide)), atol=1e-5)


@pytest.mark.parametrize(("narrow", "wide"), [(3, 5), (5, 3), (4, 4)])
def test_weight_decay_pulls_an_orthogonal_map_to_where_it_began(narrow, wide):
    projector = OrthogonalProjector()
    projector.build(torch.zeros(2, narrow), torch.zeros(2, wide))
    began = projector.net.weight.detach()
    with torch.no_grad():
        projector.net.parametrizations["weight"].original.add_(0.9 * torch.rand(wide, narrow))
    moved = (projector.net.weight - began).abs().max()
    optimizer = torch.optim.SGD(projector.parameters(), lr=0.5, weight_decay=0.5)
    for _ in range(40):
        optimizer.zero_grad()
        (0 * projector.net.weight).sum().backward()
        optimizer.step()
    assert moved > 0.1
    assert torch.allclose(projector.net.weight, began, atol=1e-4)


def test_conv_keeps_the_size_and_refuses_vectors():
    projector = ConvProjector()
    projector.build(torch.zeros(2, 3, 6, 6), torch.zeros(2, 5, 6, 6))
    assert projector(torch.randn(2, 3, 6, 6)).shape == (2, 5, 6, 6)
    with pytest.raises(InputError, match="ConvProjector takes maps"):
        ConvProjector().build(torch.zeros(2, 3), torch.zeros(2, 5))
    with pytest.raises(InputError, match="kernel_size: 4"):
        ConvProjector(kernel_size=4)


def test_a_map_and_a_vector_do_not_fit():
    with pytest.raises(InputError, match=r"layers: a LinearProjector bridges .* not \(2, 3, 4, 4\) and \(2, 5\)"):
        LinearProjector().build(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5))
