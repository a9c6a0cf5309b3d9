import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from lit_distill.losses.products import centred_products, products


def vectors(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("shape", [(4, 3), (2, 4, 3), (1, 5)])
def test_products_and_their_gradients(shape):
    x = vectors(*shape)
    torch.testing.assert_close(products(x), x @ x.mT)
    assert gradcheck(products, x)
    assert gradgradcheck(products, x)


@pytest.mark.parametrize("shape", [(4, 3), (1, 5)])
def test_products_around_the_mean_and_their_gradients(shape):
    x = vectors(*shape)
    mean = x.mean(0)
    expected = ((x - mean) @ (x - mean).T, (x - mean) @ mean, mean @ mean)
    torch.testing.assert_close(centred_products(x), expected)
    assert gradcheck(centred_products, x)
    assert gradgradcheck(centred_products, x)


@pytest.mark.parametrize("term", [products, lambda x: centred_products(x)[0]])
def test_the_gradient_that_autograd_finds(term):
    x = vectors(4, 3)
    (given,) = torch.autograd.grad(term(x).pow(3).sum(), x)
    # where autograd is asked itself
    torch.testing.assert_close(torch.func.grad(lambda x: term(x).pow(3).sum())(x.detach()), given)
