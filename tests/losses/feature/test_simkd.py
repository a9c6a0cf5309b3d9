import pytest
import torch
from torch import nn

from lit_distill import Distiller
from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import SimKD
from lit_distill.losses.feature import simkd
from lit_distill.models import ConvNet, Ensemble, resnet8, wrn_16_1
from lit_distill.models.reused_classifier import ReusedClassifier

SHAPE = (1, 8, 8)
TARGET = torch.tensor([0, 3, 2, 1])


def teacher(seed=0, classes=10):
    torch.manual_seed(seed)
    return resnet8(num_classes=classes, in_channels=1)


def student(of, seed=1):
    torch.manual_seed(seed)
    return ReusedClassifier(ConvNet(in_channels=1, width=8, depth=2), of, SHAPE)


def module(learner, taught, **given):
    return Distiller(
        student=learner,
        teacher=taught,
        losses={"simkd": SimKD(**given)},
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1),
        input_shape=SHAPE,
    )


def test_mean_squared_error():
    maps = torch.randn(2, 4, 3, 5, 5)
    torch.testing.assert_close(simkd(*maps), (maps[0] - maps[1]).square().mean())
    assert simkd(maps[0], maps[0]) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_maps(dtype):
    maps = (1e4 * torch.randn(2, 4, 3, 5, 5)).to(dtype)
    assert simkd(*maps).dtype == torch.float32
    assert simkd(*maps).isfinite()


@pytest.mark.parametrize("size", [8, 4, 2])
def test_a_larger_map_of_the_teacher_is_averaged(size):
    loss = SimKD(layers={"projector": "map"})
    projected, feature = torch.randn(4, 3, 4, 4), torch.randn(4, 3, size, size)
    given = loss(Outputs(TARGET, {"projector": projected}), Outputs(TARGET, {"map": feature}), TARGET)
    small = [nn.functional.adaptive_avg_pool2d(x, min(size, 4)) for x in (projected, feature)]
    torch.testing.assert_close(given, simkd(*small))


def test_the_student_gets_the_classifier_of_the_teacher_it_learns_from():
    taught, learner = teacher(seed=0), student(of=teacher(seed=5))
    assert not torch.equal(learner.classifier.weight, taught.fc.weight)
    module(learner, taught)
    assert torch.equal(learner.classifier.weight, taught.fc.weight)
    assert torch.equal(learner.classifier.bias, taught.fc.bias)
    assert learner.classifier.weight.data_ptr() != taught.fc.weight.data_ptr()


def test_a_member_of_an_ensemble():
    members = {"a": wrn_16_1(num_classes=10, in_channels=1), "b": teacher()}
    learner = student(of=teacher(seed=5))
    made = module(learner, Ensemble(members), teacher="b")
    assert made.losses["simkd"].layers == {"projector": "members.b.layer3"}
    assert torch.equal(learner.classifier.weight, members["b"].fc.weight)
    _, terms = made.terms((torch.randn(4, *SHAPE), TARGET))
    assert terms["simkd"] > 0


def test_all_that_trains_learns_from_the_term_and_the_classifier_does_not():
    taught = teacher()
    made = module(student(of=taught), taught)
    x = torch.randn(16, *SHAPE)
    optimizer = made.configure_optimizers()
    values = []
    for _ in range(30):
        optimizer.zero_grad()
        _, terms = made.terms((x, TARGET.repeat(4)))
        terms["simkd"].backward()
        assert all(p.grad is not None for p in made.parameters() if p.requires_grad)
        optimizer.step()
        values.append(terms["simkd"].item())
    assert values[-1] < 0.5 * values[0]
    assert torch.equal(made.student.classifier.weight, taught.fc.weight)


def test_an_equal_map_is_an_equal_answer():
    taught = teacher().eval()
    learner = ReusedClassifier(teacher(), taught, SHAPE).eval()
    learner.projector = nn.Identity()
    x = torch.randn(4, *SHAPE)
    torch.testing.assert_close(learner(x), taught(x))


def test_messages():
    taught = teacher()
    with pytest.raises(InputError, match="student must be a ReusedClassifier for SimKD, got a ConvNet"):
        module(ConvNet(in_channels=1, depth=2), taught)
    with pytest.raises(InputError, match=r"student must be one with the teacher's \(in_features=64, out_features=10"):
        module(student(of=teacher(classes=7)), taught)
    with pytest.raises(InputError, match="maps must be of one shape"):
        simkd(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 5))
