import copy

import pytest
import torch
from torch import nn

from lit_distill.core.taps import Taps, submodule
from lit_distill.errors import InputError


def network(inplace=False):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(inplace=inplace), nn.Linear(3, 2))


def test_outputs_and_inputs_by_path():
    net, x = network(), torch.randn(5, 4)
    taps = Taps(net, ["0", "2:input", ""])
    y = net(x)
    seen = taps.pop()
    assert torch.equal(seen["0"], net[0](x))
    assert torch.equal(seen["2:input"], net[1](net[0](x)))
    assert torch.equal(seen[""], y)


def test_gradients_flow_through_what_was_tapped():
    net = network()
    taps = Taps(net, ["0"])
    net(torch.randn(5, 4))
    taps.pop()["0"].sum().backward()
    assert net[0].weight.grad is not None
    assert net[2].weight.grad is None


def test_pop_empties_the_store():
    net = network()
    taps = Taps(net, ["0"])
    net(torch.randn(5, 4))
    assert taps.pop()
    assert not taps.pop()


def test_a_wrong_path_lists_names_that_come_close():
    net = nn.ModuleDict({"layer1": nn.Linear(2, 2), "layer2": nn.Linear(2, 2)})
    with pytest.raises(
        InputError, match=r"layers: the student ModuleDict has no submodule 'layer3'; close: layer"
    ) as error:
        Taps(net, ["layer3"], "student")
    assert "\n" not in str(error.value)
    with pytest.raises(InputError):
        submodule(net, "layer1.weight")  # a parameter is no submodule


def test_a_deep_copy_keeps_its_own_store():
    net = network()
    taps = Taps(net, ["0"])
    copied = copy.deepcopy(net)
    copied(torch.randn(5, 4))
    assert not taps.pop()


def test_overwriting_in_place_is_reported():
    net = network(inplace=True)
    taps = Taps(net, ["0"], "student")
    with pytest.raises(InputError, match="'0' of the student gives is overwritten in place"), taps.checked(net):
        net(torch.randn(5, 4))
    after = Taps(net, ["1"], "student")  # the in-place module's own output is fine
    with after.checked(net):
        net(torch.randn(5, 4))


def test_a_module_that_does_not_run_is_reported():
    net = network()
    net.unused = nn.Linear(2, 2)
    net.forward = lambda x: net[0](x)
    taps = Taps(net, ["unused"], "teacher")
    with pytest.raises(InputError, match="'unused' of the teacher does not run"), taps.checked(net):
        net(torch.randn(5, 4))


def test_an_output_that_is_no_tensor_is_reported():
    net = nn.Sequential(nn.LSTM(4, 3))
    taps = Taps(net, ["0"], "student")
    with pytest.raises(InputError, match="'0' of the student gives a tuple"), taps.checked(net):
        net(torch.randn(2, 5, 4))


def test_the_check_leaves_no_hooks():
    net = network()
    taps = Taps(net, ["0"])
    with taps.checked(net):
        net(torch.randn(5, 4))
    assert len(net[0]._forward_hooks) == 1


def test_it_works_under_inference_mode():
    net = network()
    taps = Taps(net, ["0"])
    with torch.inference_mode():
        net(torch.randn(5, 4))
    assert taps.pop()["0"].shape == (5, 3)


@pytest.mark.long
def test_compiled_networks_are_traced_without_graph_breaks():
    net, x = network(), torch.randn(5, 4)
    taps = Taps(net, ["0", "2:input"])
    net.compile(fullgraph=True, backend="eager")
    net(x)
    seen = taps.pop()
    assert torch.allclose(seen["0"], nn.functional.linear(x, net[0].weight, net[0].bias))
    net(2 * x)  # the second call is the compiled code, not its tracing
    assert torch.allclose(taps.pop()["0"], nn.functional.linear(2 * x, net[0].weight, net[0].bias))
