"""The 8-bit network answers what the one with rounded floats does."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lit_distill.cli import export as tool
from lit_distill.errors import InputError
from lit_distill.models import MLP, as_int8, quantised, resnet8, restored, with_learnt_points

UNIFORM = [
    {"bits": bits, "input_bits": input_bits, "bucket": bucket, "scaling": scaling}
    for bits, input_bits, bucket, scaling in (
        (8, 8, None, "absmax"),
        (4, 4, None, "absmax"),
        (8, None, 50, "absmax"),
        (8, 8, None, "linear"),
        (4, None, 50, "linear"),
    )
]
POINTS = [{"bits": 2, "input_bits": 8, "bucket": 50}, {"bits": 8, "input_bits": None, "bucket": None}]
CASES = [(quantised, case) for case in UNIFORM] + [(with_learnt_points, case) for case in POINTS]


def network(make, settings, kind=MLP):
    torch.manual_seed(0)
    student = MLP(input_shape=(1, 8, 8), hidden=[20]) if kind is MLP else resnet8(num_classes=10, in_channels=1)
    student = make(student, **settings)
    with torch.no_grad():
        for _ in range(3):
            student(images(32))
    return student.eval()


def images(count):
    return torch.randn(count, 1, 8, 8)


@pytest.mark.parametrize("kind", [MLP, resnet8])
@pytest.mark.parametrize(("make", "settings"), CASES, ids=str)
def test_it_answers_as_the_quantised_network(make, settings, kind):
    student, x = network(make, settings, kind), images(64)
    before = copy.deepcopy(student.state_dict())
    small = as_int8(student)
    with torch.no_grad():
        assert torch.equal(small(x), student(x))
    weights = [value for name, value in small.state_dict().items() if name.endswith("weight.original")]
    assert weights
    assert {value.dtype for value in weights} <= {torch.int8, torch.uint8}
    assert {name: value for name, value in student.state_dict().items() if not torch.equal(value, before[name])} == {}
    assert all(value.is_floating_point() for _, value in student.named_parameters())


@pytest.mark.parametrize(("make", "settings"), CASES, ids=str)
def test_integers_come_back_from_a_file(make, settings, tmp_path):
    student, x = network(make, settings), images(8)
    save_file(as_int8(student).state_dict(), tmp_path / "small.safetensors")
    fresh = as_int8(make(MLP(input_shape=(1, 8, 8), hidden=[20]), **settings))
    with torch.no_grad():
        assert torch.equal(restored(fresh, str(tmp_path / "small.safetensors"))(x), student(x))


@pytest.mark.parametrize(("make", "settings"), [CASES[0], CASES[4], CASES[5]], ids=str)
def test_exported_files(make, settings, tmp_path):
    student = network(make, settings)
    card = {"data": {"input_shape": (1, 8, 8)}}
    differences = tool.export(student, card, tmp_path, ["safetensors", "torch", "onnx"])
    assert differences["safetensors"] == differences["torch"] == 0
    assert differences["onnx"] < tool.tolerance_of(student)
    weights = load_file(tmp_path / "student.safetensors")
    assert weights["fc.parametrizations.weight.original"].dtype in (torch.int8, torch.uint8)


def test_onnx_holds_integers_and_operators_for_them(tmp_path):
    """A runtime without our code sees 8-bit weights, and steps that it may compute with as integers."""
    import onnx

    tool.export(network(quantised, {}), {"data": {"input_shape": (1, 8, 8)}}, tmp_path, ["onnx"])
    graph = onnx.load(tmp_path / "student.onnx").graph
    operators = [node.op_type for node in graph.node]
    assert operators.count("QuantizeLinear") == 2
    assert operators.count("DequantizeLinear") == 4
    sizes = {tensor.data_type: 0 for tensor in graph.initializer}
    for tensor in graph.initializer:
        sizes[tensor.data_type] += max(1, int(torch.tensor(tensor.dims).prod()))
    assert sizes[onnx.TensorProto.INT8] >= 64 * 20 + 20 * 10
    assert sizes[onnx.TensorProto.FLOAT] < 100


def test_eight_bits_need_a_quarter_of_the_bytes(tmp_path):
    plain = nn.Linear(512, 256)
    save_file(plain.state_dict(), tmp_path / "plain.safetensors")
    save_file(as_int8(quantised(plain)).state_dict(), tmp_path / "small.safetensors")
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("plain", "small")]
    assert 3.8 < sizes[0] / sizes[1] < 4


def test_a_plain_network_has_no_integers():
    with pytest.raises(InputError, match="model: this Linear is not quantised; accepted is what"):
        as_int8(nn.Linear(2, 2))
