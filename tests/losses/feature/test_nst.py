import torch
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.losses import NST
from lit_distill.losses.feature import nst


def test_distance_between_the_second_moments_of_the_directions():
    # k(x, y) = (x.y)^2 is the inner product of x x^T and y y^T
    student, teacher = torch.randn(4, 3, 5, 5).double(), torch.randn(4, 7, 5, 5).double()

    def moments(x):
        x = F.normalize(x.flatten(2), dim=2)
        return torch.einsum("bci,bcj->bij", x, x) / x.shape[1]

    expected = (moments(student) - moments(teacher)).square().sum((1, 2)).mean()
    torch.testing.assert_close(nst(student, teacher), expected)
    assert nst(student, teacher) >= 0


def test_sign_and_size_of_a_channel_do_not_matter():
    student, teacher = torch.randn(4, 3, 5, 5).double(), torch.randn(4, 7, 5, 5).double()
    factors = torch.randn(4, 3, 1, 1).double()
    torch.testing.assert_close(nst(factors * student, teacher), nst(student, teacher))


def test_no_tensor_with_a_dimension_for_channels_twice_and_positions(monkeypatch):
    sizes = []
    bmm = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda a, b: sizes.append(out := bmm(a, b)) or out)
    student = torch.rand(2, 6, 8, 8, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        nst(student, torch.rand(2, 5, 8, 8))
    assert [x.shape for x in sizes] == [(2, 5, 5), (2, 6, 6), (2, 6, 5)]
    assert max(kept) <= student.numel()


def test_an_empty_channel_counts_in_the_means():
    student, teacher = torch.rand(4, 3, 5, 5).double(), torch.rand(4, 3, 5, 5).double()
    empty = torch.cat([student, torch.zeros(4, 1, 5, 5).double()], 1)

    def kernel(x, y):
        x, y = (F.normalize(z.flatten(2), dim=2) for z in (x, y))
        return (x @ y.mT).square().sum((1, 2)).mean()

    expected = kernel(teacher, teacher) / 9 + kernel(student, student) / 16 - 2 * kernel(student, teacher) / 12
    torch.testing.assert_close(nst(empty, teacher), expected)


def test_sum_over_pairs():
    def outputs(*shapes):
        return Outputs(torch.zeros(4, 10), {f"l{i}": torch.rand(4, *shape) for i, shape in enumerate(shapes)})

    student, teacher = outputs((3, 8, 8), (6, 4, 4)), outputs((5, 8, 8), (7, 2, 2))
    loss = NST(layers={"l0": "l0", "l1": "l1"})
    assert not list(loss.parameters())
    terms = [nst(student.features[name], teacher.features[name]) for name in ("l0", "l1")]
    torch.testing.assert_close(loss(student, teacher, torch.zeros(4)), sum(terms))
