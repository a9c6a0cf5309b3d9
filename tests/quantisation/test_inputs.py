"""Inputs of layers are rounded within the range that training has seen."""

import pytest
import torch

from lit_distill.quantisation.inputs import InputQuantiser


def seen(bits=8, low=-1.0, high=3.0):
    quantiser = InputQuantiser(bits)
    quantiser(torch.tensor([low, high]))
    return quantiser.eval()


def test_nothing_is_rounded_before_the_first_batch():
    x = torch.randn(5, requires_grad=True)
    y = InputQuantiser(2).eval()(x)
    y.sum().backward()
    assert torch.equal(y, x)
    assert torch.equal(x.grad, torch.ones(5))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_values_within_the_range_move_by_half_a_step_at_most(bits):
    quantiser, x = seen(bits), torch.linspace(-1, 3, 501)
    y = quantiser(x)
    step, zero = quantiser.grid()
    # the range is shifted by up to half a step, so that 0 is a step
    assert (y - x).abs().max() <= step * (1 + 1e-5)
    assert len(y.unique()) <= 2**bits
    torch.testing.assert_close(y / step, (y / step).round(), rtol=0, atol=1e-4)
    assert quantiser(torch.zeros(1)) == 0
    assert 0 <= zero <= 2**bits - 1


def test_the_gradient_passes_within_the_range_alone():
    x = torch.tensor([-9.0, -0.7, 0.0, 2.6, 9.0], requires_grad=True)
    direction = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    y = seen()(x)
    (y * direction).sum().backward()
    assert x.grad.tolist() == [0.0, 2.0, 3.0, 4.0, 0.0]
    assert y[0] == y.min()
    assert y[-1] == y.max()


def test_the_range_is_a_running_mean_and_holds_zero():
    quantiser = InputQuantiser(8, momentum=0.25)
    for batch in ([1.0, 2.0], [-4.0, 6.0], [5.0, 10.0]):
        quantiser(torch.tensor(batch))
    assert float(quantiser.low) == pytest.approx(0.75 * (0.75 * 0 + 0.25 * -4) + 0.25 * 0)
    assert float(quantiser.high) == pytest.approx(0.75 * (0.75 * 2 + 0.25 * 6) + 0.25 * 10)
    before = quantiser.high.clone()
    quantiser.eval()(torch.tensor([99.0]))
    assert torch.equal(quantiser.high, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_its_type(dtype):
    x = torch.randn(64, dtype=dtype)
    y = seen()(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y, seen()(x.float()).to(dtype), rtol=0, atol=0)
