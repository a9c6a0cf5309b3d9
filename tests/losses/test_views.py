import pytest
import torch
from torch.nn import functional as F

from lit_distill.errors import InputError
from lit_distill.losses.views import as_map, as_tokens, pooled, resized, same_size


def test_maps_and_tokens_are_the_same_numbers():
    x = torch.randn(2, 5, 3, 3)
    assert torch.equal(as_map(as_tokens(x)), x)
    assert torch.allclose(pooled(x), pooled(as_tokens(x)))
    assert torch.equal(as_tokens(x)[:, 4], x[:, :, 1, 1])


@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
def test_prefix_tokens_are_left_out(prefix):
    tokens = torch.randn(2, prefix + 16, 3)
    assert torch.equal(as_tokens(as_map(tokens)), tokens[:, prefix:])


def test_vectors():
    x = torch.randn(2, 5)
    assert as_map(x).shape == (2, 5, 1, 1)
    assert as_tokens(x).shape == (2, 1, 5)
    assert torch.equal(pooled(x), x)


def test_resizing_averages_and_interpolates():
    x = torch.randn(2, 3, 8, 8)
    assert torch.allclose(resized(x, (4, 4)), F.avg_pool2d(x, 2))
    assert torch.allclose(resized(x.new_ones(1, 1, 2, 2), (5, 7)), torch.ones(1, 1, 5, 7))
    assert resized(x, (4, 16)).shape == (2, 3, 4, 16)
    assert resized(x, (8, 8)) is x


def test_the_larger_map_shrinks():
    small, large = torch.randn(2, 3, 4, 4), torch.randn(2, 6, 8, 8)
    for a, b in ((small, large), (large, small)):
        one, two = same_size(a, b)
        assert one.shape[2:] == two.shape[2:] == (4, 4)
    assert same_size(small, large)[0] is small


def test_other_shapes_are_refused():
    for view in (pooled, as_map, as_tokens):
        with pytest.raises(InputError, match=r"layers must give maps .*, got \(3,\)"):
            view(torch.zeros(3))
