"""What holds for every function of maps."""

import pytest
import torch
from torch.autograd import gradcheck

from lit_distill.errors import InputError
from lit_distill.losses.feature import at, fsp, ft, nst


def fsp_of_two(student, teacher, **given):
    """The flow from a map to every second position of it."""
    return fsp(*([x, x[..., ::2, ::2]] for x in (student, teacher)), **given)


TERMS = {
    "at_code": at,
    "at_paper": lambda s, t: at(s, t, mode="paper"),
    "at_cubes": lambda s, t: at(s, t, p=3),
    "fsp_code": fsp_of_two,
    "fsp_paper": lambda s, t: fsp_of_two(s, t, mode="paper"),
    "ft_paper": ft,
    "ft_code": lambda s, t: ft(s, t, mode="code"),
    "ft_squares": lambda s, t: ft(s, t, p=2),
    "nst": nst,
}
terms = pytest.mark.parametrize("term", TERMS.values(), ids=TERMS)


def maps(batch=3, channels=4, size=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    both = torch.randn(2, batch, channels, size, size, generator=generator, dtype=torch.float64)
    return both[0].requires_grad_(), both[1]


@terms
def test_gradcheck(term):
    student, teacher = maps()
    assert gradcheck(lambda s: term(s, teacher), student)


@terms
def test_nothing_to_learn_from_oneself(term):
    student, _ = maps()
    value = term(student, student.detach())
    (gradient,) = torch.autograd.grad(value, student)
    assert abs(value) < 1e-15
    assert gradient.abs().max() < 1e-15
    assert term(*maps()) > 1e-3


@terms
def test_a_mean_over_samples(term):
    student, teacher = maps()
    each = torch.stack([term(s, t) for s, t in zip(student.split(1), teacher.split(1), strict=True)])
    torch.testing.assert_close(term(student, teacher), each.mean())


@pytest.mark.parametrize("name", [name for name in TERMS if not name.startswith("fsp")])
def test_scale_does_not_matter(name):
    student, teacher = maps()
    torch.testing.assert_close(TERMS[name](student * 1e3, teacher * 1e-3), TERMS[name](student, teacher))


@pytest.mark.parametrize("name", ["at_code", "at_paper", "at_cubes", "nst"])
def test_channels_have_no_order_and_no_number(name):
    student, teacher = maps()
    twice = torch.cat([student, student], 1)[:, torch.randperm(8)]
    torch.testing.assert_close(TERMS[name](twice, teacher), TERMS[name](student, teacher))


@terms
def test_maps_without_a_response(term):
    student, teacher = (x.detach().clone() for x in maps())
    student[0], student[1, 2], teacher[2] = 0, 0, 0
    student.requires_grad_()
    value = term(student, teacher)
    (gradient,) = torch.autograd.grad(value, student)
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert gradient.abs().max() < 1e3


@terms
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tight_cluster_under_autocast(term, dtype):
    # all channels and positions nearly equal, as in two networks that agree but for details
    generator = torch.Generator().manual_seed(0)
    centre = 3 * torch.rand(8, 8, generator=generator)
    student, teacher = ((centre + 0.05 * torch.randn(4, 32, 8, 8, generator=generator)).to(dtype) for _ in range(2))
    exact = term(student.double(), teacher.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        given = term(student, teacher)
    assert given.dtype == torch.float32
    torch.testing.assert_close(given.double(), exact, rtol=2e-4, atol=0)


@terms
def test_large_activations(term):
    student, teacher = (1e4 * x.detach().float() for x in maps())
    student.requires_grad_()
    value = term(student, teacher)
    (gradient,) = torch.autograd.grad(value, student)
    assert value.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", [name for name in TERMS if not name.startswith("fsp")])
@pytest.mark.parametrize(
    ("student", "teacher"), [((3, 4, 8, 8), (2, 4, 8, 8)), ((3, 4), (3, 4, 8, 8)), ((3, 4, 64), (3, 4, 64))]
)
def test_other_shapes_are_refused_in_one_line(name, student, teacher):
    with pytest.raises(InputError, match=r"must be maps \(B, C, H, W\) of the same samples, got [^\n]*$"):
        TERMS[name](torch.zeros(student), torch.zeros(teacher))
