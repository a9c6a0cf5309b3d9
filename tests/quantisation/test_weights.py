"""Weights are rounded as the formulas say, and gradients pass as they say."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lit_distill.errors import InputError
from lit_distill.losses.classifier import classifier_of
from lit_distill.models import MLP, ConvNet, default_layers, quantised, resnet8, with_learnt_points
from lit_distill.quantisation import is_quantised, unquantised

SCHEMES = [{"scaling": scaling, "bucket": bucket} for scaling in ("absmax", "linear") for bucket in (None, 5)]


def layer(*shape, **settings):
    torch.manual_seed(0)
    return quantised(nn.Linear(*(shape or (7, 6))), input_bits=None, **settings)


def latent(module):
    return module.parametrizations.weight.original


def groups(weight, bucket):
    """Weights that share a scale, by plain slicing."""
    return list(weight) if bucket is None else list(weight.flatten().split(bucket))


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_weights_are_where_the_formula_puts_them(scheme, bits):
    module = layer(bits=bits, **scheme)
    before, after = latent(module).detach(), module.weight.detach()
    for value, rounded in zip(groups(before, scheme["bucket"]), groups(after, scheme["bucket"]), strict=True):
        if scheme["scaling"] == "absmax":
            span, start, steps = value.abs().max(), 0.0, 2 ** (bits - 1) - 1
        else:
            span, start, steps = value.max() - value.min(), value.min(), 2**bits - 1
        expected = span * ((value - start) / span * steps).round() / steps + start
        torch.testing.assert_close(rounded, expected, rtol=1e-5, atol=1e-7)
        assert (rounded - value).abs().max() <= span / steps / 2 * (1 + 1e-5)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_a_rounded_weight_is_rounded_to_itself(scheme):
    module = layer(bits=4, **scheme)
    once = module.weight.detach().clone()
    with torch.no_grad():
        latent(module).copy_(once)
    torch.testing.assert_close(module.weight, once, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_the_gradient_is_that_for_the_rounded_weight(scheme):
    """Of the network whose weights are the rounded ones, to the last bit."""
    module, x, direction = layer(bits=3, **scheme), torch.randn(4, 7), torch.randn(4, 6)
    rounded = module.weight.detach().clone().requires_grad_()
    (expected,) = torch.autograd.grad((F.linear(x, rounded, module.bias).tanh() * direction).sum(), rounded)
    (module(x).tanh() * direction).sum().backward()
    assert torch.equal(latent(module).grad, expected)


def test_eight_bits_are_close_to_none_and_more_bits_are_closer():
    torch.manual_seed(0)
    network, x = resnet8(num_classes=10, in_channels=1).eval(), torch.randn(16, 1, 8, 8)
    with torch.no_grad():
        exact = network(x)
        errors = [
            float((quantised(copy.deepcopy(network), bits, input_bits=None)(x) - exact).abs().mean())
            for bits in range(2, 9)
        ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.01 * exact.abs().mean()


@pytest.mark.parametrize("make", [quantised, with_learnt_points])
def test_equal_weights_and_zeros_stay(make):
    for value in (0.0, 0.3):
        network = nn.Linear(6, 2)
        nn.init.constant_(network.weight, value)
        torch.testing.assert_close(make(network, bits=2, input_bits=None).weight, torch.full((2, 6), value))


@pytest.mark.parametrize("bucket", [None, 5])
@pytest.mark.parametrize("initial", ["quantiles", "uniform"])
def test_a_weight_goes_to_the_nearest_point_and_points_get_the_gradient_by_its_definition(bucket, initial):
    torch.manual_seed(0)
    module = with_learnt_points(nn.Linear(7, 6), bits=2, bucket=bucket, initial=initial)
    points = module.parametrizations.weight[0].points
    with torch.no_grad():
        points.add_(0.2 * torch.randn(4))  # also out of their order
    direction = torch.randn(6, 7)
    (module.weight * direction).sum().backward()
    expected = torch.zeros(4)
    parts = (groups(tensor, bucket) for tensor in (latent(module).detach(), module.weight.detach(), direction))
    for value, rounded, gradient in zip(*parts, strict=True):
        span, start = value.max() - value.min(), value.min()
        nearest = (((value - start) / span)[:, None] - points.detach()).abs().argmin(1)
        torch.testing.assert_close(rounded, span * points.detach()[nearest] + start)
        expected.index_add_(0, nearest, span * gradient)
    torch.testing.assert_close(points.grad, expected)
    assert latent(module).grad is None


def test_points_at_quantiles_are_all_used():
    torch.manual_seed(0)
    skewed = nn.Linear(64, 8)
    with torch.no_grad():
        skewed.weight[0, 0] = 100.0
    used = {
        initial: with_learnt_points(copy.deepcopy(skewed), bits=4, bucket=512, initial=initial).weight.unique().numel()
        for initial in ("quantiles", "uniform")
    }
    assert used["uniform"] < used["quantiles"] == 16


def test_uniform_points_are_the_uniform_grid():
    torch.manual_seed(0)
    first = nn.Linear(7, 6)
    second = copy.deepcopy(first)
    points = with_learnt_points(first, bits=3, initial="uniform").weight
    torch.testing.assert_close(points, quantised(second, bits=3, input_bits=None, scaling="linear").weight)


def test_points_alone_are_trained():
    network = with_learnt_points(resnet8(num_classes=10, in_channels=1))
    trained = [name for name, value in network.named_parameters() if value.requires_grad]
    assert len(trained) == 10
    assert all(name.endswith("parametrizations.weight.0.points") for name in trained)


@pytest.mark.parametrize("make", [quantised, with_learnt_points])
@pytest.mark.parametrize(
    "network", [MLP(input_shape=(1, 8, 8)), ConvNet(in_channels=1, width=8, depth=2), resnet8(in_channels=1)]
)
def test_layers_keep_their_paths(make, network):
    plain = copy.deepcopy(network)
    changed = make(copy.deepcopy(network), input_bits=8)
    assert {name for name, _ in plain.named_modules()} <= {name for name, _ in changed.named_modules()}
    for view in ("stages", "pre_activation", "middle", "last", "pooled"):
        assert default_layers(changed, view) == default_layers(plain, view)
    paths = [
        [name for name, module in of.named_modules() if module is classifier_of(of, None, "classifier")]
        for of in (plain, changed)
    ]
    assert paths[0] == paths[1]
    with torch.no_grad(), unquantised(changed):
        x = torch.randn(3, 1, 8, 8)
        assert torch.equal(changed.eval()(x), plain.eval()(x))


def test_skipped_layers_stay():
    network = quantised(resnet8(in_channels=1), skip=["conv1", "fc"])
    assert [type(network.get_submodule(path)) for path in ("conv1", "fc")] == [nn.Conv2d, nn.Linear]
    assert is_quantised(network)


def test_a_copy_lives_alone():
    network = layer(bits=2)
    other = copy.deepcopy(network)
    with torch.no_grad():
        latent(other).zero_()
    assert other.weight.abs().max() == 0 < network.weight.abs().max()


@pytest.mark.parametrize(
    ("make", "arguments", "says"),
    [
        (quantised, {"bits": 1}, "bits: 1 given; accepted are 2 to 8"),
        (with_learnt_points, {"bits": 9}, "bits: 9 given; accepted are 2 to 8"),
        (quantised, {"input_bits": 16}, "input_bits: 16 given; accepted are 2 to 8, or null for inputs as they are"),
        (quantised, {"bucket": 1}, "bucket: 1 given; accepted is a number of weights of at least 2"),
        (quantised, {"scaling": "log"}, "scaling: 'log' given; accepted are absmax and linear"),
        (with_learnt_points, {"initial": "random"}, "initial: 'random' given; accepted are quantiles and uniform"),
        (quantised, {"skip": ["2.relu"]}, "skip: '2.relu' is no linear or convolution layer of Sequential; near are "),
        (quantised, {"skip": ["0", "2"]}, "model: Sequential has no linear or convolution layer left to quantise"),
    ],
)
def test_bad_arguments(make, arguments, says):
    network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with pytest.raises(InputError) as error:
        make(network, **arguments)
    assert str(error.value).startswith(says)
    assert "\n" not in str(error.value)
    assert not is_quantised(network)
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_once_is_enough():
    with pytest.raises(InputError, match="model: this Sequential is quantised already"):
        quantised(nn.Sequential(layer()))
