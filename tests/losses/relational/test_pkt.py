import pytest
import torch

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import PKT
from lit_distill.losses.relational import pkt


def test_divergence_between_the_rows_by_hand():
    # no probability is so small that the 1e-7 added to it counts
    student, teacher = torch.rand(5, 3).double(), torch.rand(5, 4).double()

    def neighbours(x):
        kernel = (torch.cosine_similarity(x[None], x[:, None], dim=2) + 1) / 2
        return kernel / kernel.sum(1, keepdim=True)

    p, q = neighbours(student), neighbours(teacher)
    expected = torch.nn.functional.kl_div(p.log(), q, reduction="sum") / 25
    torch.testing.assert_close(pkt(student, teacher), expected, rtol=1e-5, atol=0)


def test_small_and_large_differences_meet():
    # where the series ends the value and the gradient go on
    x = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.3, 1.0]]).double()
    sizes = torch.logspace(-4, -1, 61).double()
    values, gradients = [], []
    for size in sizes:
        student = (x + size * torch.tensor([[0.0, 1.0], [0.0, 0.0], [0.0, 0.0]])).requires_grad_()
        values.append(pkt(student, x) / size**2)
        gradients.append(torch.autograd.grad(values[-1] * size, student)[0])
    steps = torch.stack(values).diff().abs() / values[0]
    assert steps[:40].max() < 5e-3
    assert torch.stack(gradients).diff(dim=0).abs()[:40].max() < 2e-2 * gradients[0].abs().max()


def test_a_sample_without_a_direction_is_as_like_all_others():
    x = torch.cat([torch.zeros(1, 3), torch.eye(3)]).double()
    # cosines of 0 and 1: similarities of 1 / 2 and 1
    p = torch.tensor([[0.25] * 4, *([[0.2 + 0.2 * (i == j) for j in range(4)] for i in range(1, 4)])]).double()
    q = torch.full((4, 4), 0.25).double()
    same = torch.ones(4, 3).double()
    expected = torch.nn.functional.kl_div(p.log(), q, reduction="sum") / 16
    torch.testing.assert_close(pkt(x, same), expected, rtol=1e-5, atol=0)


def test_eps_reaches_the_function():
    student, teacher = (Outputs(torch.zeros(4, 10), {"a": torch.randn(4, 3)}) for _ in range(2))
    loss = PKT(layers={"a": "a"}, eps=0.1)
    assert loss(student, teacher, torch.zeros(4)) == pkt(student.features["a"], teacher.features["a"], 0.1)
    with pytest.raises(InputError, match=r"eps must be positive, got 0\.0"):
        PKT(layers={"a": "a"}, eps=0.0)
