import pytest
import torch
from torch import nn

from lit_distill.core.classification import NoGradient, example_forward
from lit_distill.errors import InputError
from lit_distill.models import MLP
from lit_distill.supervised import Supervised


def test_no_gradient_adds_nothing_and_reaches_every_parameter():
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    hidden = net[0](torch.randn(5, 3))
    loss = hidden.square().mean()
    extended = loss + NoGradient.apply(net[1](hidden))
    assert extended == loss
    expected = torch.autograd.grad(loss, net[0].weight, retain_graph=True)[0]
    extended.backward()
    assert torch.equal(net[0].weight.grad, expected)
    assert torch.equal(net[1].weight.grad, torch.zeros_like(net[1].weight))


def test_no_gradient_is_zero_for_logits_that_are_not_finite():
    logits = torch.tensor([float("inf"), float("nan")], requires_grad=True)
    NoGradient.apply(logits).backward()
    assert torch.equal(logits.grad, torch.zeros(2))


def test_an_example_leaves_the_modes_as_they_were():
    net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.BatchNorm1d(4))
    net[2].eval()
    before = net[2].running_mean.clone()
    example_forward(net, (3,), "student")
    assert [m.training for m in net] == [True, True, False]
    assert torch.equal(net[2].running_mean, before)


def test_inputs_that_do_not_fit_are_one_line():
    with pytest.raises(InputError, match=r"student: Linear does not take inputs of shape \(7,\)") as error:
        example_forward(nn.Linear(3, 2), (7,), "student")
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=r"student: answers with shape \(2, 5, 2\); accepted are logits"):
        Supervised(student=nn.Linear(3, 2), optimizer=torch.optim.SGD, input_shape=(5, 3))


def test_metrics_enter_no_checkpoint():
    module = Supervised(student=MLP((1, 2, 2), 3), optimizer=torch.optim.SGD, input_shape=(1, 2, 2))
    assert all(key.startswith("student.") for key in module.state_dict())
