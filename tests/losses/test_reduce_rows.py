import pytest
import torch

from lit_distill.errors import InputError
from lit_distill.losses.divergences import forward_kl, reduce_rows


def test_mean_of_the_rows_that_count():
    values = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])
    mask = torch.tensor([[1, 0, 1], [0, 0, 1]])
    torch.testing.assert_close(reduce_rows(values), values.mean())
    torch.testing.assert_close(reduce_rows(values, mask), torch.tensor(37.0 / 3))
    torch.testing.assert_close(reduce_rows(values, mask.bool()), torch.tensor(37.0 / 3))


def test_no_row_counts():
    student = torch.randn(2, 3, 5, requires_grad=True)
    loss = reduce_rows(forward_kl(student, torch.randn(2, 3, 5)), torch.zeros(2, 3, dtype=torch.bool))
    assert loss == 0
    (gradient,) = torch.autograd.grad(loss, student)
    assert torch.equal(gradient, torch.zeros_like(student))


def test_rows_that_do_not_count_may_hold_anything():
    values = torch.tensor([1.0, torch.nan, torch.inf], requires_grad=True)
    loss = reduce_rows(values, torch.tensor([True, False, False]))
    (gradient,) = torch.autograd.grad(loss, values)
    assert loss == 1
    assert gradient.tolist() == [1, 0, 0]


def test_parts_of_a_batch_add_up():
    values, mask = torch.rand(8, 6), torch.rand(8, 6) > 0.5
    mask[:5] = False  # parts of very different size
    whole = reduce_rows(values, mask)
    parts = [reduce_rows(values[s], mask[s], total=mask.sum()) for s in (slice(0, 6), slice(6, 8))]
    torch.testing.assert_close(sum(parts), whole)


def test_shape_of_the_mask():
    with pytest.raises(InputError, match=r"mask must have the shape of the rows \(2, 3\), got \(2,\)"):
        reduce_rows(torch.zeros(2, 3), torch.ones(2))
