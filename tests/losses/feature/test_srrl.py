import pytest
import torch
from torch import nn
from torch.autograd import gradcheck
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import SRRL
from lit_distill.losses.feature import srrl
from lit_distill.models import ConvNet, Ensemble, MultiExit, resnet8


def built(student, teacher, network, **given):
    torch.manual_seed(0)
    loss = SRRL(layers=dict(zip(student.features, teacher.features, strict=True)), **given)
    loss.attach(nn.Identity(), network)
    loss.build(student, teacher)
    return loss


def said(channels=6):
    torch.manual_seed(1)
    network = nn.Linear(channels, 10).requires_grad_(False)
    feature = torch.randn(4, channels)
    student = Outputs(torch.zeros(4, 10), {"map": torch.randn(4, 3, 4, 4, requires_grad=True)})
    return student, Outputs(network(feature), {"vector": feature}), network


def test_both_parts_by_hand():
    student, teacher = torch.randn(2, 4, 6)
    read, logits = torch.randn(2, 4, 10)
    expected = [(student - teacher).square().mean(), (read - logits).square().mean()]
    torch.testing.assert_close(srrl(student, teacher, read, logits, 0.3), expected[0] + 0.3 * expected[1])
    assert srrl(teacher, teacher, logits, logits) == 0


def test_gradcheck():
    student, teacher = torch.randn(2, 2, 3, dtype=torch.float64)
    read, logits = torch.randn(2, 2, 5, dtype=torch.float64)
    both = (student.requires_grad_(), read.requires_grad_())
    assert gradcheck(lambda s, r: srrl(s, teacher, r, logits, 0.3), both)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_values(dtype):
    tensors = [(1e4 * torch.randn(4, 6)).to(dtype).requires_grad_() for _ in range(4)]
    value = srrl(*tensors)
    gradients = torch.autograd.grad(value, [tensors[0], tensors[2]])
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_the_teachers_classifier_reads_the_mean_of_the_connected_map():
    student, teacher, network = said()
    loss = built(student, teacher, network, regression_weight=0.3)
    feature = loss.connector(student.features["map"]).mean((2, 3))
    expected = F.mse_loss(feature, teacher.features["vector"]) + 0.3 * F.mse_loss(network(feature), teacher.logits)
    torch.testing.assert_close(loss(student, teacher, torch.zeros(4)), expected)


def test_the_gradient_passes_through_the_classifier_and_leaves_it_alone():
    student, teacher, network = said()
    gradients = []
    for weight in (0.0, 1.0):
        value = built(student, teacher, network, regression_weight=weight)(student, teacher, torch.zeros(4))
        gradients.append(torch.autograd.grad(value, student.features["map"])[0])
    assert (gradients[1] - gradients[0]).abs().max() > 1e-6
    loss = built(student, teacher, network)
    loss(student, teacher, torch.zeros(4)).backward()
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(parameter.grad.abs().max() > 0 for parameter in loss.parameters())
    assert all(name.startswith("connector.") for name in loss.state_dict())


@pytest.mark.parametrize("shape", [(6, 4, 4), (5, 6), (6,)])
def test_the_teachers_feature_may_be_what_is_averaged(shape):
    student, _, network = said()
    feature = torch.rand(4, *shape)
    mean = feature if len(shape) == 1 else feature.mean(1) if len(shape) == 2 else feature.mean((2, 3))
    teachers = [Outputs(network(mean), {"it": x}) for x in (feature, mean)]
    given, expected = (built(student, t, network)(student, t, torch.zeros(4)) for t in teachers)
    torch.testing.assert_close(given, expected)


def test_default_layers():
    loss = SRRL()
    loss.choose_layers(ConvNet(depth=2), resnet8())
    assert loss.layers == {"blocks.1.relu": "flatten"}
    loss = SRRL(teacher="b")
    ensemble = Ensemble({"a": ConvNet(depth=2), "b": resnet8()})
    loss.choose_layers(ConvNet(depth=2), ensemble)
    loss.attach(ConvNet(depth=2), ensemble)
    assert loss.layers == {"blocks.1.relu": "members.b.flatten"}
    assert loss.classifier[0] is ensemble.members["b"].fc


def test_another_classifier_may_be_named():
    network = MultiExit(resnet8(num_classes=10), {"early": "layer1"}, input_shape=(3, 8, 8))
    loss = SRRL(classifier="exits.early.fc")
    loss.attach(nn.Identity(), network)
    assert loss.classifier[0] is network.exits["early"].fc


def test_messages():
    student, teacher, _ = said()
    with pytest.raises(InputError, match="regression_weight must be 0 or positive, got -1"):
        SRRL(regression_weight=-1.0)
    with pytest.raises(InputError, match=r"layers must be one pair \{student path: .*, got \{'a': 'b', 'c': 'd'\}"):
        SRRL(layers={"a": "b", "c": "d"})
    with pytest.raises(InputError, match=r"layers must be what a classifier of 5 takes, got vector \(4, 6\)"):
        built(student, teacher, nn.Linear(5, 10))
    with pytest.raises(InputError, match="SRRL must meet the two networks before it is built"):
        SRRL(layers={"map": "vector"}).build(student, teacher)
    with pytest.raises(InputError, match="features must be of one shape"):
        srrl(torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2, 5), torch.zeros(2, 5))
    with pytest.raises(InputError, match="logits must be of one shape"):
        srrl(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 5), torch.zeros(2, 1))
