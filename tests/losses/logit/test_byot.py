import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lit_distill import Distiller
from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import BYOT, KD, CrossEntropy
from lit_distill.losses.logit import byot, byot_hint
from lit_distill.models import MLP, MultiExit, resnet8

TARGET = torch.tensor([0, 3, 2, 1])
EXITS = ["exits.early", "exits.middle"]
SHAPE = (1, 8, 8)


def both(batch=4, classes=6):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, batch, classes, generator=generator, dtype=torch.float64).requires_grad_().unbind()


def plain(exit_logits, deepest, target, alpha, temperature):
    """The formula of the paper, sample by sample."""
    total = 0.0
    for z, c, y in zip(exit_logits, deepest.detach(), target, strict=True):
        p, q = (c / temperature).softmax(0), (z / temperature).softmax(0)
        total += -(1 - alpha) * z.softmax(0)[y].log() + alpha * (p * (p / q).log()).sum()
    return total / len(target)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_it_is_the_formula(alpha, temperature):
    exit_logits, deepest = both()
    expected = plain(exit_logits, deepest, TARGET, alpha, temperature)
    torch.testing.assert_close(byot(exit_logits, deepest, TARGET, alpha, temperature), expected)


def test_the_hint_is_summed_over_features_and_a_mean_over_samples():
    feature, deepest = both()
    expected = sum(((f - c) ** 2).sum() for f, c in zip(feature, deepest, strict=True)) / 4
    torch.testing.assert_close(byot_hint(feature, deepest), expected)
    torch.testing.assert_close(byot_hint(feature.view(4, 3, 2, 1), deepest.view(4, 3, 2, 1)), expected)


def test_an_exit_that_equals_the_deepest_has_nothing_to_learn_from_it():
    exit_logits, _ = both()
    for value in (
        byot(exit_logits, exit_logits.detach(), TARGET, alpha=1.0),
        byot_hint(exit_logits, exit_logits.detach()),
    ):
        (gradient,) = torch.autograd.grad(value, exit_logits)
        torch.testing.assert_close(value, torch.zeros_like(value))
        torch.testing.assert_close(gradient, torch.zeros_like(gradient))
    labels = byot(exit_logits, exit_logits, TARGET, alpha=0.3)
    torch.testing.assert_close(labels, 0.7 * F.cross_entropy(exit_logits, TARGET))


def test_the_deepest_exit_is_not_taught():
    exit_logits, deepest = both()
    for value in (byot(exit_logits, deepest, TARGET), byot_hint(exit_logits, deepest)):
        learns, teaches = torch.autograd.grad(value, [exit_logits, deepest], allow_unused=True)
        assert learns.abs().max() > 0
        assert teaches is None


def test_no_square_of_the_temperature():
    exit_logits, deepest = both()
    once = byot(exit_logits, deepest, TARGET, alpha=1.0, temperature=1.0)
    torch.testing.assert_close(byot(2 * exit_logits, 2 * deepest, TARGET, alpha=1.0, temperature=2.0), once)


def test_a_temperature_that_learns():
    exit_logits, deepest = both()
    temperature = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda t: byot(exit_logits.detach(), deepest.detach(), TARGET, temperature=t), temperature
    )


def test_gradient():
    exit_logits, deepest = both()
    assert torch.autograd.gradcheck(lambda z: byot(z, deepest.detach(), TARGET), exit_logits)
    assert torch.autograd.gradcheck(lambda f: byot_hint(f, deepest.detach()), exit_logits)


def test_mixed_labels_count_by_their_shares():
    exit_logits, deepest = both()
    first, second = F.one_hot(TARGET, 6).double(), F.one_hot(TARGET.roll(1), 6).double()
    mixed = byot(exit_logits, deepest, 0.7 * first + 0.3 * second)
    apart = 0.7 * byot(exit_logits, deepest, TARGET) + 0.3 * byot(exit_logits, deepest, TARGET.roll(1))
    torch.testing.assert_close(mixed, apart)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_finite_at_extreme_logits(dtype):
    deepest = 1e4 * torch.eye(4, 6)
    for student in (deepest, -deepest, deepest.roll(1, 1)):
        student = student.to(dtype, copy=True).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
            value = byot(student, deepest.to(dtype), TARGET) + byot_hint(student, deepest.to(dtype))
        (gradient,) = torch.autograd.grad(value, student)
        assert value.isfinite()
        assert gradient.isfinite().all()


def test_half_precision_is_raised():
    exit_logits, deepest = (x.detach().bfloat16() for x in both())
    for function, rest in ((byot, (TARGET,)), (byot_hint, ())):
        exact = function(exit_logits.double(), deepest.double(), *rest)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            given = function(exit_logits, deepest, *rest)
        assert given.dtype is torch.float32
        torch.testing.assert_close(given.double(), exact, rtol=1e-5, atol=0)


def distiller(**losses):
    torch.manual_seed(0)
    return Distiller(
        student=MultiExit(resnet8(num_classes=10, in_channels=1), {"early": "layer1", "middle": "layer2"}, SHAPE),
        teacher=MLP(SHAPE, hidden=(8,)) if "kd" in losses else None,
        losses=losses,
        optimizer=torch.optim.SGD,
        input_shape=SHAPE,
    )


def batch():
    return torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(1)), TARGET


def test_within_a_distiller_all_exits_are_summed():
    module = distiller(byot=BYOT(exits=EXITS, alpha=0.4, hint=0.2, temperature=2.0)).eval()
    student = module.student
    x, _ = batch()
    *exits, deepest = student.answers(x)
    last = student.network.flatten(student.network.avgpool(_upto(student.network, x, "layer3")))
    expected = sum(plain(logits, deepest, TARGET, 0.4, 2.0) for logits in exits)
    for name, layer in student.paths.items():
        seen = student.exits[name].net(_upto(student.network, x, layer))
        expected = expected + 0.2 * (seen - last).square().sum(1).mean()
    _, terms = module.terms(batch())
    torch.testing.assert_close(terms["byot"], expected)


def _upto(network, x, layer):
    x = network.relu(network.bn1(network.conv1(x)))
    for name in ("layer1", "layer2", "layer3"):
        x = network.get_submodule(name)(x)
        if name == layer:
            return x


def test_the_gradient_reaches_each_exit_and_what_is_below_but_not_what_is_above():
    module = distiller(byot=BYOT(exits=EXITS))
    module.terms(batch())[1]["byot"].backward()
    reached = {name: p.grad is not None and bool(p.grad.any()) for name, p in module.student.named_parameters()}
    for name, learns in reached.items():
        assert learns == (not name.startswith(("network.layer3", "network.fc"))), name


def test_beside_cross_entropy_everything_learns_and_the_end_learns_from_the_labels_alone():
    alone, beside = distiller(ce=CrossEntropy()), distiller(ce=CrossEntropy(), byot=BYOT(exits=EXITS))
    for module in (alone, beside):
        sum(module.terms(batch())[1].values()).backward()
    assert all(p.grad is not None for p in beside.student.parameters())
    for name in ("network.layer3.0.conv1.weight", "network.fc.weight"):
        torch.testing.assert_close(beside.student.get_parameter(name).grad, alone.student.get_parameter(name).grad)
    below = "network.layer1.0.conv1.weight"
    assert not torch.equal(beside.student.get_parameter(below).grad, alone.student.get_parameter(below).grad)


def test_beside_a_teacher_the_exits_still_learn_from_the_end():
    own = distiller(byot=BYOT(exits=EXITS)).eval()
    taught = distiller(byot=BYOT(exits=EXITS), kd=KD()).eval()
    taught.student.load_state_dict(own.student.state_dict())
    torch.testing.assert_close(taught.terms(batch())[1]["byot"], own.terms(batch())[1]["byot"], rtol=0, atol=0)


def test_without_a_hint_no_feature_is_asked_for():
    loss = BYOT(exits=EXITS, hint=0.0)
    assert list(loss.layers) == EXITS
    student = Outputs(both()[0], dict.fromkeys(EXITS, both()[1]))
    torch.testing.assert_close(loss(student, student, TARGET), 2 * byot(both()[1], both()[0], TARGET))


class Inception(nn.Module):
    """A network with an exit of its own making."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.side = nn.Sequential()
        self.side.fc = nn.Linear(8, 3)

    def forward(self, x):
        x = self.first(x).relu()
        self.side(x)
        return self.head(self.second(x).relu())


def test_any_network_with_an_exit():
    module = Distiller(
        student=Inception(),
        losses={"byot": BYOT(exits=["side"], classifier="head")},
        optimizer=torch.optim.SGD,
        input_shape=(5,),
    )
    module.terms((torch.randn(4, 5), torch.tensor([0, 1, 2, 0])))[1]["byot"].backward()
    assert {name for name, p in module.student.named_parameters() if p.grad is not None} == {
        "first.weight",
        "first.bias",
        "side.fc.weight",
        "side.fc.bias",
    }


def test_shapes_must_agree():
    logits = torch.zeros(4, 6)
    with pytest.raises(InputError, match=r"logits.*\(4, 5\) and \(4, 6\)"):
        byot(logits[:, :5], logits, TARGET)
    with pytest.raises(
        InputError, match=r"features \(here of an exit and of the deepest classifier\).*\(4, 5\) and \(4, 6\)"
    ):
        byot_hint(logits[:, :5], logits)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"exits": []}, r"exits must be module paths of the student, got \[\]"),
        ({"alpha": 1.1}, r"alpha must be in \[0, 1\], got 1.1"),
        ({"hint": -1.0}, "hint must be 0 or positive, got -1.0"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
    ],
)
def test_bad_hyperparameters(given, message):
    with pytest.raises(InputError, match=message):
        BYOT(**{"exits": EXITS, **given})


def test_a_wrong_path_lists_names_that_come_close():
    with pytest.raises(InputError, match=r"no submodule 'exits.erly'; close: exits.early"):
        distiller(byot=BYOT(exits=["exits.erly"]))
