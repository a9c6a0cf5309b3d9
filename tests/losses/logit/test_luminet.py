import pytest
import torch
from torch.nn import functional as F

from lit_distill.errors import InputError
from lit_distill.losses import LumiNet
from lit_distill.losses.divergences import forward_kl
from lit_distill.losses.logit import luminet


def both(batch=6, classes=5):
    generator = torch.Generator().manual_seed(0)
    student, teacher = 2 * torch.randn(2, batch, classes, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def test_classes_are_normalised_as_batch_norm_does():
    student, teacher = both()
    s, t = (F.batch_norm(x, None, None, training=True) for x in (student, teacher))
    torch.testing.assert_close(luminet(student, teacher, 3.0, 2.0), 9 * forward_kl(s, t, 2.0).mean())


def test_place_and_scale_of_each_class_do_not_matter():
    student, teacher = both()
    scale, place = 5 + torch.rand(5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    torch.testing.assert_close(luminet(scale * student + place, teacher), luminet(student, teacher), rtol=1e-4, atol=0)
    value = luminet(scale * teacher + place, teacher)
    torch.testing.assert_close(value, torch.zeros_like(value), rtol=0, atol=1e-6)


def test_a_sample_depends_on_its_companions():
    student, teacher = both()
    parts = [luminet(student[i::2], teacher[i::2]) for i in range(2)]
    assert (luminet(student, teacher) - sum(parts) / 2).abs() > 1


@pytest.mark.parametrize("batch", [1, 3])
def test_classes_that_do_not_vary(batch):
    student = torch.ones(batch, 5, requires_grad=True)
    value = luminet(student, torch.ones(batch, 5))
    (gradient,) = torch.autograd.grad(value, student)
    assert value == 0
    assert not gradient.any()


def test_rows_of_rows_are_refused():
    with pytest.raises(InputError, match=r"student logits must be of shape \(B, C\), got \(2, 3, 5\)"):
        luminet(torch.zeros(2, 3, 5), torch.zeros(2, 3, 5))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": -1.0}, "alpha must be 0 or positive, got -1.0"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
    ],
)
def test_bad_hyperparameters(settings, message):
    with pytest.raises(InputError, match=message):
        LumiNet(**settings)
