import pytest
from torch import nn

from lit_distill.errors import InputError
from lit_distill.losses.classifier import classifier_of
from lit_distill.models import MLP, Ensemble, resnet8


class Timm(nn.Module):
    def __init__(self):
        super().__init__()
        self.head, self.other = nn.Linear(4, 3), nn.Linear(4, 2)

    def get_classifier(self):
        return self.head


def test_where_the_network_says_itself():
    network = resnet8(num_classes=10, in_channels=1)
    assert classifier_of(network, None, "classifier") is network.fc
    network = Timm()
    assert classifier_of(network, None, "classifier") is network.head


def test_a_path_goes_before_what_the_network_says():
    network = Timm()
    assert classifier_of(network, "other", "classifier") is network.other


def test_else_the_last_linear_layer():
    network = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 3), nn.ReLU()))
    assert classifier_of(network, None, "classifier") is network[1][0]


def test_of_a_member():
    network = Ensemble({"small": MLP(hidden=()), "large": resnet8(num_classes=10)})
    assert classifier_of(network, None, "classifier", member="large") is network.members["large"].fc


@pytest.mark.parametrize(
    ("network", "path", "message"),
    [
        (MLP(), "fd", r"classifier must be the path of a linear layer of MLP, got 'fd'; near are fc"),
        (MLP(), "flatten", r"linear layer of MLP, got 'flatten'; near are"),
        (nn.ReLU(), None, r"linear layer of ReLU, got None; near are none"),
    ],
)
def test_there_is_none(network, path, message):
    with pytest.raises(InputError, match=message):
        classifier_of(network, path, "classifier")
