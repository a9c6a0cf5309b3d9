import pytest
import torch

from lit_distill.core.taps import Taps
from lit_distill.errors import InputError
from lit_distill.models import MLP, AuxiliaryLogits


def test_the_first_logits_are_the_answer_and_the_rest_are_tapped():
    network = AuxiliaryLogits(MLP(num_classes=7), classes=5)
    taps, x = Taps(network, ["auxiliary"]), torch.randn(3, 1, 8, 8)
    answer = network(x)
    assert torch.equal(torch.cat([answer, taps.pop()["auxiliary"]], dim=1), network.model(x))
    assert answer.shape == (3, 5)


def test_no_label_reaches_the_auxiliary_logits():
    network = AuxiliaryLogits(MLP(num_classes=7), classes=5)
    torch.nn.functional.cross_entropy(network(torch.randn(3, 1, 8, 8)), torch.tensor([0, 1, 4])).backward()
    gradient = network.model.fc.weight.grad
    assert gradient[:5].abs().sum() > 0
    assert (gradient[5:] == 0).all()


def test_bad_input():
    with pytest.raises(InputError, match="MLP gives 5 logits; accepted are more than the 5 of the answer"):
        AuxiliaryLogits(MLP(num_classes=5), classes=5)(torch.zeros(1, 1, 8, 8))
    with pytest.raises(InputError, match="classes: 0 given"):
        AuxiliaryLogits(MLP(), classes=0)
