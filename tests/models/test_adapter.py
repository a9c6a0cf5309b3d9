import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate

from lit_distill.errors import InputError
from lit_distill.models import InputAdapter

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
DATA_MEAN, DATA_STD = [0.3], [0.35]


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"size": 6, "channels": 3},
        {"mean": MEAN, "std": STD, "data_mean": MEAN, "data_std": STD, "size": (6, 6)},
    ],
)
def test_identity_when_nothing_differs(arguments):
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(InputAdapter(nn.Identity(), **arguments)(x), x)


@pytest.mark.parametrize("size", [(16, 12), (5, 3)])
def test_equals_images_prepared_for_the_network(size):
    raw = torch.rand(4, 1, 8, 8, dtype=torch.float64)
    prepared = interpolate(raw, size, mode="bilinear", antialias=True).repeat(1, 3, 1, 1)
    prepared = (prepared - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    x = (raw - DATA_MEAN[0]) / DATA_STD[0]
    torch.manual_seed(0)
    model = nn.Conv2d(3, 5, 3).double()
    adapter = InputAdapter(model, size, 3, MEAN, STD, DATA_MEAN, DATA_STD)
    torch.testing.assert_close(adapter(x), model(prepared), rtol=1e-6, atol=1e-6)


def test_half_precision_stays():
    adapter = InputAdapter(nn.Identity(), size=4, mean=MEAN, std=STD)
    assert adapter(torch.rand(2, 3, 8, 8).bfloat16()).dtype == torch.bfloat16


def test_gradients_reach_the_image():
    x = torch.rand(1, 1, 4, 4, requires_grad=True)
    InputAdapter(nn.Identity(), channels=3, std=STD)(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, sum(1 / s for s in STD)))


def test_weights_are_the_network_s_alone():
    model = nn.Linear(2, 2)
    assert set(InputAdapter(model, mean=MEAN, std=STD).state_dict()) == {"model.weight", "model.bias"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "size must be positive"),
        ({"channels": -1}, "channels must be positive"),
        ({"channels": 1, "mean": MEAN}, "mean must have 1 numbers, not 3"),
        ({"std": [0.1, 0.0, 0.1]}, "std must be positive"),
        ({"data_std": [-1.0]}, "data_std must be positive"),
        ({"mean": MEAN, "std": [1.0, 1.0]}, "std must have 1 or 3 numbers, not 2"),
        ({"mean": []}, "mean must have"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(InputError, match=message):
        InputAdapter(nn.Identity(), **arguments)


@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        ({"channels": 1}, (2, 3, 4, 4)),
        ({"channels": 3}, (2, 2, 4, 4)),
        ({"mean": MEAN}, (2, 1, 4, 4)),  # repeating a channel has to be asked for
        ({"channels": 3, "data_mean": MEAN}, (2, 1, 4, 4)),
        ({}, (2, 3)),
    ],
)
def test_images_are_checked(arguments, shape):
    with pytest.raises(InputError, match="cannot take images of shape"):
        InputAdapter(nn.Identity(), **arguments)(torch.zeros(shape))
