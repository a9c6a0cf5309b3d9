import pytest
import torch
from torch import nn

from lit_distill.models.halving import HalvingPool


@pytest.mark.parametrize("size", [(8, 8), (6, 10), (7, 5), (2, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_is_average_pooling(size, dtype):
    x = torch.randn(3, 5, *size, dtype=dtype)
    torch.testing.assert_close(HalvingPool()(x), nn.AvgPool2d(2)(x))


def test_gradients_are_those_of_average_pooling():
    x = torch.randn(3, 5, 7, 6, requires_grad=True)
    weights = torch.randn(3, 5, 3, 3)

    def second(pool):
        (first,) = torch.autograd.grad((pool(x.sin()).square() * weights).sum(), x, create_graph=True)
        return first, torch.autograd.grad(first.square().sum(), x)[0]

    torch.testing.assert_close(second(HalvingPool()), second(nn.AvgPool2d(2)), rtol=1e-4, atol=1e-5)


def test_in_vmap():
    x = torch.randn(4, 3, 5, 6, 6)
    torch.testing.assert_close(torch.vmap(HalvingPool())(x), nn.AvgPool2d(2)(x.flatten(0, 1)).unflatten(0, (4, 3)))
