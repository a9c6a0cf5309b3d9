import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import ICKD
from lit_distill.losses.feature import correlations, ickd


def maps(batch=3, channels=4):
    student = torch.randn(batch, channels, 3, 5, dtype=torch.float64, requires_grad=True)
    return student, torch.randn(batch, channels, 2, 2, dtype=torch.float64)


def test_products_of_channels_in_unit_rows():
    x, _ = maps()
    for i in range(4):
        row = torch.stack([(x[:, i] * x[:, j]).sum((1, 2)) for j in range(4)], 1)
        torch.testing.assert_close(correlations(x)[:, i], F.normalize(row))


def test_the_two_scales_of_the_authors():
    # CIFAR: summed / (C B); ImageNet: summed / (C B B); the weights 2.5 and 500 belong to one each
    student, teacher = maps()
    summed = (correlations(student) - correlations(teacher)).square().sum()
    torch.testing.assert_close(ickd(student, teacher), summed / (4 * 3))
    torch.testing.assert_close(ickd(student, teacher, "imagenet"), summed / (4 * 3**2))


def test_only_the_scale_of_imagenet_depends_on_the_batch():
    student, teacher = maps()
    twice = [torch.cat([x, x]) for x in (student, teacher)]
    torch.testing.assert_close(ickd(*twice), ickd(student, teacher))
    torch.testing.assert_close(ickd(*twice, "imagenet"), ickd(student, teacher, "imagenet") / 2)


def test_places_and_scale_do_not_matter():
    student, teacher = maps()
    shuffled = student.flatten(2)[:, :, torch.randperm(15)].unflatten(2, (5, 3))
    factor = 1 + torch.rand(3, 1, 1, 1)
    torch.testing.assert_close(ickd(factor * shuffled, teacher), ickd(student, teacher))


def test_gradient():
    student, teacher = maps()
    assert gradcheck(lambda s: ickd(s, teacher), student)
    value = ickd(student, student.detach())
    (gradient,) = torch.autograd.grad(value, student)
    assert value == 0
    assert gradient.abs().max() == 0


def test_a_channel_without_a_response():
    student, teacher = (x.detach().clone() for x in maps())
    student[:, 1], teacher[0] = 0, 0
    student.requires_grad_()
    value = ickd(student, teacher)
    (gradient,) = torch.autograd.grad(value, student)
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert gradient.abs().max() < 1e3


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_half_precision_under_autocast(scale):
    student, teacher = ((scale * torch.rand(4, 16, 8, 8)).bfloat16().requires_grad_() for _ in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = ickd(student, teacher)
    value.backward()
    assert value.dtype == torch.float32
    assert student.grad.isfinite().all()
    torch.testing.assert_close(value.double(), ickd(student.double(), teacher.double()), rtol=1e-4, atol=0)


def test_the_student_alone_is_embedded():
    student = Outputs(torch.zeros(4, 10), {"a": torch.randn(4, 3, 8, 8), "b": torch.randn(4, 17, 6)})
    teacher = Outputs(torch.zeros(4, 10), {"a": torch.randn(4, 5, 4, 4), "b": torch.randn(4, 6, 2, 2)})
    loss = ICKD(layers={"a": "a", "b": "b"}, scale="imagenet")
    loss.build(student, teacher)
    # also where the numbers of channels are equal
    shapes = [tuple(p.shape) for p in loss.parameters()]
    assert shapes == [(5, 3, 1, 1), (5,), (5,), (6, 6, 1, 1), (6,), (6,)]
    value = loss(student, teacher, torch.zeros(4))
    tokens = student.features["b"][:, 1:].transpose(1, 2).unflatten(2, (4, 4))
    first = ickd(loss.embeddings[0](student.features["a"]), teacher.features["a"], "imagenet")
    second = ickd(loss.embeddings[1](tokens), teacher.features["b"], "imagenet")
    torch.testing.assert_close(value, first + second)


def test_bad_input():
    with pytest.raises(InputError, match="scale must be cifar or imagenet, got 'coco'"):
        ICKD(scale="coco")
    with pytest.raises(InputError, match=r"of the same samples and channels, got \(2, 3, 4, 4\) and \(2, 5, 4, 4\)$"):
        ickd(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 4, 4))
    outputs = Outputs(torch.zeros(2, 10), {"a": torch.zeros(2, 3, 4, 4)})
    with pytest.raises(InputError, match=r"got no build\(\)"):
        ICKD(layers={"a": "a"})(outputs, outputs, torch.zeros(2))
