import pytest
import torch
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import KD, TVD, CrossEntropy, DivergenceKD, ForwardKL, LogitMSE
from lit_distill.losses.logit import kd, logit_mse


def both(batch=6, classes=5, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, batch, classes, generator=generator, dtype=dtype)
    return student.requires_grad_(), teacher


def outputs(*logits):
    return [Outputs(x) for x in logits]


TARGET = torch.tensor([0, 1, 2, 3, 4, 0])


def test_kd_is_batchmean_kl_times_square_of_temperature():
    student, teacher = both()
    value = F.kl_div((student / 4).log_softmax(-1), (teacher / 4).softmax(-1), reduction="batchmean") * 16
    torch.testing.assert_close(kd(student, teacher), value)
    torch.testing.assert_close(KD()(*outputs(student, teacher), TARGET), value)


def test_any_divergence_with_the_square_of_its_temperature():
    student, teacher = both()
    value = DivergenceKD(TVD(), temperature=3.0)(*outputs(student, teacher), TARGET)
    torch.testing.assert_close(value, 9 * TVD()(student, teacher, 3.0).mean())
    torch.testing.assert_close(
        DivergenceKD(ForwardKL(), temperature=3.0)(*outputs(student, teacher), TARGET), kd(student, teacher, 3.0)
    )


def test_gradient_of_kd_keeps_its_size_when_the_temperature_grows():
    student, teacher = both()
    sizes = [torch.autograd.grad(kd(student, teacher, t), student)[0].norm() for t in (10.0, 100.0)]
    torch.testing.assert_close(*sizes, rtol=0.1, atol=0)


def test_kd_tends_to_half_the_squared_error_of_centred_logits():
    student, teacher = both()
    centred = [x - x.mean(1, keepdim=True) for x in (student, teacher)]
    torch.testing.assert_close(kd(student, teacher, 1e4), logit_mse(*centred) / 2, rtol=1e-3, atol=0)


@pytest.mark.parametrize("loss", [KD(), DivergenceKD(TVD()), LogitMSE(), CrossEntropy()])
def test_mean_over_the_batch(loss):
    student, teacher = both()
    whole = loss(*outputs(student, teacher), TARGET)
    twice = loss(*outputs(student.repeat(2, 1), teacher.repeat(2, 1)), TARGET.repeat(2))
    parts = [loss(*outputs(student[i::2], teacher[i::2]), TARGET[i::2]) for i in range(2)]
    torch.testing.assert_close(twice, whole)
    torch.testing.assert_close(sum(parts) / 2, whole)


@pytest.mark.parametrize("loss", [KD(), DivergenceKD(TVD()), LogitMSE(), CrossEntropy()])
def test_half_precision_is_raised(loss):
    student, teacher = (x.detach().bfloat16() for x in both(classes=100))
    exact = loss(*outputs(student.double(), teacher.double()), TARGET)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        given = loss(*outputs(student, teacher), TARGET)
    torch.testing.assert_close(given.double(), exact, rtol=1e-2 if isinstance(loss, CrossEntropy) else 1e-5, atol=0)


@pytest.mark.parametrize("loss", [KD(), DivergenceKD(TVD()), LogitMSE()])
def test_classes_must_agree(loss):
    with pytest.raises(InputError, match=r"student and teacher logits must be of one shape, got \(6, 5\) and \(6, 7\)"):
        loss(*outputs(torch.zeros(6, 5), torch.zeros(6, 7)), TARGET)


def test_logit_mse_is_a_mean_over_samples_and_classes():
    student, teacher = both()
    by_hand = sum((s - t) ** 2 for s, t in zip(student.flatten(), teacher.flatten(), strict=True)) / 30
    torch.testing.assert_close(LogitMSE()(*outputs(student, teacher), TARGET), by_hand)


def test_cross_entropy_of_classes_and_of_probabilities():
    student, _ = both()
    hard = CrossEntropy(label_smoothing=0.1)(*outputs(student, student), TARGET)
    soft = F.one_hot(TARGET, 5) * 0.9 + 0.1 / 5
    torch.testing.assert_close(hard, -(soft * student.log_softmax(-1)).sum(-1).mean())
    torch.testing.assert_close(CrossEntropy()(*outputs(student, student), soft), hard)


def test_cross_entropy_does_not_ask_the_teacher():
    student, _ = both()
    assert CrossEntropy()(Outputs(student), None, TARGET).isfinite()


@pytest.mark.parametrize("target", [torch.zeros(5, dtype=torch.long), torch.zeros(6, 4), torch.zeros(6)])
def test_cross_entropy_wants_a_target_that_fits(target):
    student, _ = both()
    with pytest.raises(InputError, match=r"target must be class indices \(6,\) or class probabilities \(6, 5\), got"):
        CrossEntropy()(*outputs(student, student), target)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KD(temperature=0), "temperature must be positive, got 0"),
        (lambda: DivergenceKD(TVD(), temperature=-1.0), "temperature must be positive, got -1.0"),
        (lambda: CrossEntropy(label_smoothing=1.1), r"label_smoothing must be in \[0, 1\], got 1.1"),
    ],
)
def test_bad_hyperparameters(make, message):
    with pytest.raises(InputError, match=message):
        make()
