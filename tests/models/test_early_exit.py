"""Inference that ends where an exit is sure."""

import math

import pytest
import torch
from torch import nn

from lit_distill.errors import InputError
from lit_distill.models import EarlyExit, MultiExit, macs, resnet8

SHAPE = (1, 8, 8)


@pytest.fixture
def student():
    torch.manual_seed(0)
    made = MultiExit(resnet8(num_classes=10, in_channels=1), {"early": "layer1", "middle": "layer2"}, SHAPE)
    for _ in range(3):
        made(torch.randn(16, *SHAPE))
    return made.eval().requires_grad_(False)


@pytest.fixture
def x():
    return torch.randn(40, *SHAPE, generator=torch.Generator().manual_seed(0))


def sure_first(answers, threshold):
    """Which exit answers each input, and what: worked out from what all exits say of all inputs."""
    confidence = answers.softmax(-1).amax(-1)
    confidence[-1] = math.inf
    first = (confidence >= threshold).int().argmax(0)
    return first, answers[first, torch.arange(answers.shape[1])]


@pytest.mark.parametrize("share", [0.5, 0.7])
def test_each_input_is_answered_by_the_first_exit_that_is_sure(student, x, share):
    answers = student.answers(x)
    threshold = float(answers[:2].softmax(-1).amax(-1).quantile(share))
    first, expected = sure_first(answers, threshold)
    quick = EarlyExit(student, threshold)
    logits, exits = quick.with_exits(x)
    assert set(first.tolist()) == {0, 1, 2}
    assert torch.equal(exits, first)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(quick(x), expected)


@pytest.mark.parametrize(
    ("threshold", "exit"), [(0.0, 0), ({"middle": 0.0}, 1), (1.1, 2), ({}, 2), ({"early": 2, "middle": 0}, 1)]
)
def test_all_or_none(student, x, threshold, exit):
    logits, exits = EarlyExit(student, threshold).with_exits(x)
    torch.testing.assert_close(logits, student.answers(x)[exit])
    used = threshold if isinstance(threshold, dict) else student.exits
    left_out = [name for name in list(student.exits)[:exit] if name not in used]
    assert set(exits.tolist()) == {exit - len(left_out)}


def test_what_nobody_needs_is_not_computed(student, x):
    rows = {}
    for name, module in student.named_modules():
        module.register_forward_hook(lambda module, args, output, name=name: rows.update({name: len(output)}))
    EarlyExit(student, 0.0)(x)
    assert rows["exits.early"] == len(x)
    assert not {"network.layer2", "network.fc", "exits.middle"} & rows.keys()
    rows.clear()
    threshold = float(student.answers(x)[0].softmax(-1).amax(-1).median())
    rows.clear()
    EarlyExit(student, {"early": threshold})(x)
    assert rows["network.layer1"] == len(x)
    assert 0 < rows["network.layer2"] == rows["network.fc"] < len(x)
    assert "exits.middle" not in rows


def test_costs_are_those_of_the_parts_that_run(student):
    quick = EarlyExit(student)
    early, middle, deepest = quick.costs(SHAPE)
    assert early < middle < deepest
    assert deepest == macs(student, SHAPE)
    assert early == macs(EarlyExit(student, 0.0), SHAPE)
    assert EarlyExit(student, {"middle": 0.5}).costs(SHAPE) == [
        middle - macs(student.exits["early"], (16, 8, 8)),
        deepest - macs(student.exits["early"], (16, 8, 8)),
    ]
    assert EarlyExit(student, {}).costs(SHAPE) == [macs(student.network, SHAPE)]


def test_the_student_is_left_as_it_was(student, x):
    before = student.answers(x)
    hooks = [len(module._forward_hooks) for module in student.modules()]
    quick = EarlyExit(student, 0.0)
    quick(x)
    quick.costs(SHAPE)
    with pytest.raises(InputError):
        quick(torch.randn(2, 3, 8, 8))
    assert [len(module._forward_hooks) for module in student.modules()] == hooks
    assert torch.equal(student.answers(x), before)


def test_an_answer_does_not_depend_on_the_inputs_beside_it(student, x):
    threshold = float(student.answers(x)[0].softmax(-1).amax(-1).median())
    quick = EarlyExit(student, threshold)
    alone = torch.cat([quick(row[None]) for row in x])
    torch.testing.assert_close(quick(x), alone)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(quick(x[order]), quick(x)[order])


def test_exits_are_there_after_a_reload(student, x):
    quick = EarlyExit(student, 0.3)
    torch.manual_seed(1)
    again = EarlyExit(
        MultiExit(resnet8(num_classes=10, in_channels=1), {"early": "layer1", "middle": "layer2"}, SHAPE), 0.3
    )
    again.load_state_dict(quick.state_dict())
    assert torch.equal(again.eval()(x), quick(x))


class Says(nn.Module):
    """Gives the same logits in half precision, whatever it sees."""

    def forward(self, feature):
        return torch.tensor([[7.0, 0.0]], dtype=torch.bfloat16).expand(len(feature), -1)


def test_half_precision_is_not_surer():
    network = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    student = MultiExit(network, {"a": "1"}, (4,), classifier="2")
    student.exits["a"] = Says()
    probability = Says()(torch.zeros(1)).float().softmax(-1).max().item()
    for threshold, exit in ((probability - 1e-4, 0), (probability + 1e-4, 1)):
        _, exits = EarlyExit(student, threshold).with_exits(torch.zeros(3, 4))
        assert exits.tolist() == [exit] * 3


class Bypass(nn.Module):
    """Adds to its end what it kept from before the exit."""

    def __init__(self):
        super().__init__()
        self.middle = nn.Linear(4, 4)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(x + self.middle(x))


def test_an_exit_that_is_bypassed_is_refused():
    torch.manual_seed(0)
    student = MultiExit(Bypass(), {"a": "middle"}, (4,)).eval().requires_grad_(False)
    x = torch.randn(6, 4)
    threshold = float(student.answers(x)[0].softmax(-1).amax(-1).max())  # one input leaves
    torch.testing.assert_close(EarlyExit(student, 2.0)(x), student(x))
    with pytest.raises(RuntimeError, match="size of tensor"):
        EarlyExit(student, threshold)(x)
    confidence = student.answers(x)[0].softmax(-1).amax(-1).sort().values
    with pytest.raises(InputError, match="the network answers 6 inputs where 1 are left"):
        EarlyExit(student, float(confidence[1]))(x)  # one stays, and would be added to all


@pytest.mark.parametrize(
    ("threshold", "message"),
    [
        ({"late": 0.5}, "threshold: no exit is called late; the exits are early, middle"),
        (-0.1, "threshold must be 0 or positive, not -0.1"),
        ({"early": float("nan")}, "threshold must be 0 or positive, not"),
    ],
)
def test_bad_thresholds(student, threshold, message):
    with pytest.raises(InputError, match=message):
        EarlyExit(student, threshold)
