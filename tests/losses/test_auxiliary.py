import pytest
import torch
from torch import nn

from lit_distill.errors import InputError
from lit_distill.losses.auxiliary import AuxiliaryHead


@pytest.mark.parametrize(("shape", "positions"), [((4, 6, 3, 5), (2, 3)), ((4, 7, 6), 1)])
def test_maps_and_tokens_are_averaged(shape, positions):
    feature = torch.randn(shape)
    head = AuxiliaryHead(feature, classes=10)
    torch.testing.assert_close(head(feature), head(feature.mean(positions)))


def test_a_linear_one_and_one_with_a_hidden_layer():
    feature = torch.randn(4, 6)
    assert isinstance(AuxiliaryHead(feature, classes=10).net, nn.Linear)
    head = AuxiliaryHead(feature, classes=10, hidden=20)
    head(feature).sum().backward()
    assert [parameter.shape[0] for parameter in head.parameters()] == [20, 20, 20, 20, 10, 10]
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_parameters_of_a_half_precision_dry_run_are_not_half():
    assert AuxiliaryHead(torch.zeros(2, 6, dtype=torch.bfloat16), classes=10).net.weight.dtype is torch.float32
    assert AuxiliaryHead(torch.zeros(2, 6, dtype=torch.float64), classes=10).net.weight.dtype is torch.float64


def test_a_feature_of_another_shape():
    with pytest.raises(InputError, match=r"layer must give \(B, D, H, W\), .*, got it \(2, 3, 2, 2, 2\)"):
        AuxiliaryHead(torch.zeros(2, 3, 2, 2, 2), classes=10, path="it")
