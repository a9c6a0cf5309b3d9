"""MLP, ConvNet and the count of multiply-adds."""

import pytest
import torch
from torch import nn

from lit_distill.errors import InputError
from lit_distill.models import MLP, ConvNet, macs

NORMS = ["batch", "group", "instance", "none"]


def tap(network, x):
    seen = {}
    for pre in (False, True):
        for path in (*network.stages(pre), network.pooled_path):
            module = network.get_submodule(path.removesuffix(":input"))
            if path.endswith(":input"):
                module.register_forward_pre_hook(lambda _, args, path=path: seen.__setitem__(path, args[0]))
            else:
                module.register_forward_hook(lambda _, args, out, path=path: seen.__setitem__(path, out))
    return network(x), seen


@pytest.mark.parametrize(
    ("network", "x"),
    [
        (MLP((1, 8, 8), 7, (32, 16)), torch.randn(4, 1, 8, 8)),
        (MLP((5,), 7, (16,)), torch.randn(4, 5)),
        *((ConvNet(1, 7, width=12, depth=3, norm=norm), torch.randn(4, 1, 8, 8)) for norm in NORMS),
    ],
)
def test_stages(network, x):
    logits, seen = tap(network, x)
    assert logits.shape == (4, 7)
    for after, before in zip(network.stages(), network.stages(True), strict=True):
        assert (seen[before] < 0).any()
        assert torch.equal(seen[before].relu(), seen[after])
    classifier = network.get_submodule(network.classifier_path)
    assert torch.equal(classifier(seen[network.pooled_path]), logits)


def test_mlp_without_hidden_layers_is_linear():
    network = MLP((2, 3), 4, ())
    x, y = torch.randn(5, 2, 3), torch.randn(5, 2, 3)
    assert network.stages() == ()
    torch.testing.assert_close(network(x + y), network(x) + network(y) - network.fc.bias)


def test_mlp_refuses_other_shapes():
    with pytest.raises(InputError, match=r"input_shape is \(1, 8, 8\), but a sample has \(1, 9, 9\)"):
        MLP()(torch.zeros(2, 1, 9, 9))


@pytest.mark.parametrize("size", [8, 28, 32])
@pytest.mark.parametrize("norm", NORMS)
def test_convnet_sizes(size, norm):
    assert ConvNet(3, 10, width=4, depth=3, norm=norm)(torch.randn(2, 3, size, size)).shape == (2, 10)


def test_convnet_names_the_size_it_cannot_take():
    with pytest.raises(InputError, match=r"16x16 pixels, not \(2, 1, 8, 8\)"):
        ConvNet(1, depth=4)(torch.zeros(2, 1, 8, 8))


@pytest.mark.parametrize(("arguments", "message"), [({"norm": "layer"}, "norm must"), ({"depth": 0}, "depth must")])
def test_convnet_arguments_are_checked(arguments, message):
    with pytest.raises(InputError, match=message):
        ConvNet(**arguments)


@pytest.mark.parametrize("norm", NORMS)
def test_two_halves_of_a_batch_equal_the_whole_unless_norms_see_the_batch(norm):
    torch.manual_seed(0)
    network = ConvNet(1, 10, width=8, depth=2, norm=norm).double()
    x, target = torch.randn(8, 1, 8, 8, dtype=torch.float64), torch.arange(8)

    def gradient(part):
        loss = nn.functional.cross_entropy(network(x[part]), target[part])
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(network.parameters()))])

    whole = gradient(slice(None))
    halves = (gradient(slice(4)) + gradient(slice(4, None))) / 2
    assert torch.allclose(whole, halves, rtol=1e-10, atol=1e-12) is (norm != "batch")


@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [
        (nn.Linear(3, 5), (3,), 15),
        (nn.Linear(3, 5), (7, 3), 7 * 15),
        (nn.Conv2d(4, 6, 3, padding=1), (4, 8, 8), 8 * 8 * 6 * 4 * 9),
        (nn.Conv2d(4, 6, 3, stride=2, groups=2), (4, 9, 9), 4 * 4 * 6 * 2 * 9),
        (nn.Conv2d(4, 4, 3, groups=4).double(), (4, 5, 5), 3 * 3 * 4 * 9),
        (nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2)), (4, 8, 8), 0),
        (nn.ReLU(), (4,), 0),
    ],
)
def test_macs(model, shape, expected):
    assert macs(model, shape) == expected


def test_macs_of_attention():
    class Attention(nn.Module):
        def forward(self, x):
            return nn.functional.scaled_dot_product_attention(x, x, x)

    heads, length, width = 2, 5, 8
    assert macs(Attention(), (heads, length, width)) == 2 * heads * length * length * width


def test_macs_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.BatchNorm2d(2).eval())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    macs(model, (1, 8, 8))
    assert [module.training for module in model] == [True, True, False]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(RuntimeError):
        macs(model, (2, 8, 8))
    assert [module.training for module in model] == [True, True, False]
