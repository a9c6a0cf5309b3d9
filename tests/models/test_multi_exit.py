"""Networks with exits on the way."""

import copy

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from lit_distill.core.taps import Taps
from lit_distill.errors import InputError
from lit_distill.models import MLP, ConvNet, MultiExit, macs, resnet8, restored, vgg8
from lit_distill.models.multi_exit import ExitHead

SHAPE = (1, 8, 8)
STAGES = {"early": "layer1", "middle": "layer2"}


def resnet(seed=0, exits=STAGES):
    torch.manual_seed(seed)
    return MultiExit(resnet8(num_classes=10, in_channels=1), exits, SHAPE)


@pytest.fixture
def x():
    return torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(0))


def trained_a_little(student, x):
    """Statistics of normalisation that are not those of a new network."""
    for _ in range(3):
        student.train()(x)
    return student.eval()


@pytest.mark.parametrize("training", [True, False])
def test_it_answers_as_the_network_alone(training, x):
    student = resnet().train(training)
    torch.testing.assert_close(student(x), copy.deepcopy(student.network)(x), rtol=0, atol=0)


def test_answers_are_those_of_the_tapped_exits_from_shallow_to_deep_and_of_the_network(x):
    student = trained_a_little(resnet(exits={"middle": "layer2", "early": "layer1"}), x)
    taps = Taps(student, ["exits.early", "exits.middle"], "student")
    logits = student(x)
    seen = taps.pop()
    answers = student.answers(x)
    assert list(student.exits) == ["early", "middle"]
    assert torch.equal(answers, torch.stack([seen["exits.early"], seen["exits.middle"], logits]))


def test_an_exit_sees_its_layer_alone(x):
    student = trained_a_little(resnet(), x)
    before = student.answers(x)
    nn.init.normal_(student.network.layer2[0].conv1.weight)
    after = student.answers(x)
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, False, False]


def test_all_exits_give_the_classifier_as_wide_a_vector():
    student = resnet()
    assert {head.fc.in_features for head in student.exits.values()} == {student.network.fc.in_features}
    assert {head.fc.out_features for head in student.exits.values()} == {10}


def test_the_dry_run_leaves_the_network_as_it_was():
    torch.manual_seed(0)
    network = resnet8(num_classes=10, in_channels=1)
    network.layer1.eval()
    before = copy.deepcopy(network)
    MultiExit(network, STAGES, SHAPE)
    assert [m.training for m in network.modules()] == [m.training for m in before.modules()]
    for name, value in before.state_dict().items():
        assert torch.equal(network.state_dict()[name], value)


@pytest.mark.parametrize("shape", [(6, 8, 8), (6, 5, 3), (6, 1, 1), (7, 6), (6,)])
@pytest.mark.parametrize("width", [3, 16])
def test_a_head_takes_maps_tokens_and_vectors_and_learns(shape, width):
    feature = torch.randn(4, *shape, requires_grad=True)
    head = ExitHead(feature, width, classes=9)
    head(feature).square().sum().backward()
    assert head(feature).shape == (4, 9)
    assert head.fc.in_features == width
    assert all(parameter.grad is not None for parameter in head.parameters())
    assert feature.grad.abs().max() > 0


NETWORKS = {
    "convnet": lambda: MultiExit(ConvNet(in_channels=1, width=8, depth=2), {"a": "blocks.0"}, SHAPE),
    "vgg": lambda: MultiExit(vgg8(num_classes=10, in_channels=1), {"a": "block1", "b": "block3"}, (1, 32, 32)),
    "mlp": lambda: MultiExit(MLP(SHAPE, hidden=(12, 6)), {"a": "blocks.0"}, SHAPE),
    "transformer": lambda: MultiExit(
        VisionTransformer(img_size=8, patch_size=4, in_chans=1, num_classes=10, embed_dim=16, depth=2, num_heads=2),
        {"a": "blocks.0"},
        SHAPE,
        classifier="head",
    ),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_networks_of_every_kind(kind):
    student = NETWORKS[kind]()
    size = 32 if kind == "vgg" else 8
    answers = student.answers(torch.randn(3, 1, size, size))
    assert answers.shape == (len(student.exits) + 1, 3, 10)
    answers.square().sum().backward()
    assert all(p.grad is not None for p in student.parameters())


def test_double_precision(x):
    student = MultiExit(resnet8(num_classes=10, in_channels=1).double(), STAGES, SHAPE)
    assert student.answers(x.double()).dtype is torch.float64


def test_copies_do_not_share_what_they_see(x):
    student = trained_a_little(resnet(), x)
    twin = copy.deepcopy(student)
    nn.init.zeros_(twin.network.conv1.weight)
    answers = student.answers(x)
    twin.answers(x)
    assert torch.equal(student.answers(x), answers)
    assert not torch.equal(twin.answers(x), answers)


def test_compiled(x):
    student = trained_a_little(resnet(), x)
    compiled = copy.deepcopy(student)
    taps = Taps(compiled, ["exits.early"], "student")
    compiled.compile(backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), student(x))
    torch.testing.assert_close(taps.pop()["exits.early"], student.answers(x)[0])


def test_what_is_exported_is_the_network_alone(x):
    student = trained_a_little(resnet(), x)

    def exported(network):
        return torch.export.export(network, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))

    def operations(program):
        return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]

    program = exported(student)
    torch.testing.assert_close(program.module()(x[:3]), student(x[:3]))
    assert operations(program) == operations(exported(student.network))
    assert macs(student, SHAPE) > macs(student.network, SHAPE)


def test_from_yaml_and_back_from_a_file(tmp_path, x):
    student = trained_a_little(resnet(), x)
    save_file(student.state_dict(), tmp_path / "student.safetensors")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--net", type=nn.Module)
    settings = yaml.safe_load("""
        class_path: lit_distill.models.MultiExit
        init_args:
          network: {class_path: lit_distill.models.resnet8, init_args: {num_classes: 10, in_channels: 1}}
          exits: {early: layer1, middle: layer2}
          input_shape: [1, 8, 8]
    """)
    again = restored(
        parser.instantiate(parser.parse_object({"net": settings})).net, str(tmp_path / "student.safetensors")
    )
    assert torch.equal(again.eval().answers(x), student.answers(x))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"exits": {}}, "exits must name at least one"),
        ({"exits": {"a": "layer9"}}, "exits: the network CifarResNet has no submodule 'layer9'; close: layer"),
        (
            {"exits": {"a": "layer1:input"}},
            "exits must leave at what a module gives, not at what it takes, 'layer1:input'",
        ),
        ({"exits": {"a.b": "layer1"}}, "exits: .*, choose another name"),
        ({"exits": {"keys": "layer1"}}, "exits: .*, choose another name"),
        ({"classifier": "layer1"}, "classifier must be the path of a linear layer of CifarResNet, got 'layer1'"),
        ({"classifier": "head"}, "classifier must be the path of a linear layer of CifarResNet, got 'head'"),
        ({"input_shape": (3, 8, 8)}, r"exits: .*CifarResNet takes images \(batch, 1"),
    ],
)
def test_bad_arguments(given, message):
    arguments = {"network": resnet8(num_classes=10, in_channels=1), "exits": STAGES, "input_shape": SHAPE} | given
    with pytest.raises(InputError, match=message) as error:
        MultiExit(**arguments)
    assert "\n" not in str(error.value)


def test_an_input_that_the_network_does_not_take():
    network = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    with pytest.raises(InputError, match=r"input_shape: Sequential does not take inputs of shape \(5,\)"):
        MultiExit(network, {"a": "1"}, (5,), classifier="2")


def test_an_exit_that_is_overwritten_in_place():
    network = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 3))
    with pytest.raises(InputError, match="exits: what '0' of the network gives is overwritten in place"):
        MultiExit(network, {"a": "0"}, (4,), classifier="2")


def test_a_feature_of_another_shape():
    network = nn.Sequential(nn.Unflatten(1, (2, 2, 1, 1)), nn.Flatten(), nn.Linear(4, 3))
    with pytest.raises(InputError, match=r"exits must leave at .*, but a leaves at \(2, 2, 2, 1, 1\)"):
        MultiExit(network, {"a": "0"}, (4,), classifier="2")
