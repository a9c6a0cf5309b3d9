import pytest
import torch
from torch import nn

from lit_distill.errors import InputError
from lit_distill.models import MLP, Ensemble, MostConfident, RoutedEnsemble


def members(count=3, classes=5):
    torch.manual_seed(0)
    return {f"m{i}": MLP((4,), classes, (6,)) for i in range(count)}


@pytest.fixture
def x():
    torch.manual_seed(1)
    return torch.randn(7, 4)


def test_one_member_is_the_member(x):
    single = members(1)
    member = single["m0"]
    assert torch.equal(Ensemble(single)(x), member(x))
    assert torch.equal(RoutedEnsemble(single)(x), member(x))
    torch.testing.assert_close(Ensemble(single, average="probabilities")(x), member(x).log_softmax(1))


@pytest.mark.parametrize("weights", [None, {"m0": 2.0, "m2": 0.5}, {"m1": 0.0}])
def test_means(weights, x):
    networks = members()
    shares = [(weights or {}).get(name, 1.0) for name in networks]
    total = sum(shares)
    logits = [network(x) for network in networks.values()]
    mean = sum(w / total * z for w, z in zip(shares, logits, strict=True))
    probability = sum(w / total * z.softmax(1) for w, z in zip(shares, logits, strict=True))
    geometric = torch.ones(())
    for w, z in zip(shares, logits, strict=True):
        geometric = geometric * z.softmax(1) ** (w / total)
    by_logits = Ensemble(networks, weights)(x)
    torch.testing.assert_close(by_logits, mean)
    torch.testing.assert_close(by_logits.softmax(1), geometric / geometric.sum(1, keepdim=True))
    torch.testing.assert_close(Ensemble(networks, weights, "probabilities")(x).exp(), probability)


def test_a_member_without_weight_leaves_no_trace(x):
    networks = members(2)
    for average in ("logits", "probabilities"):
        ensemble = Ensemble(networks, {"m1": 0.0}, average)
        out = ensemble(x)
        torch.testing.assert_close(out.softmax(1), networks["m0"](x).softmax(1))
        gradients = torch.autograd.grad(out[:, 0].sum(), list(networks["m1"].parameters()), allow_unused=True)
        assert all(g is None or not g.any() for g in gradients)


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_order_and_scale_of_weights_do_not_matter(average, x):
    networks = members()
    forwards = Ensemble(networks, {"m0": 1.0, "m1": 2.0, "m2": 3.0}, average)
    backwards = Ensemble(dict(reversed(networks.items())), {"m2": 6.0, "m1": 4.0, "m0": 2.0}, average)
    torch.testing.assert_close(forwards(x), backwards(x))


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_extreme_and_half_precision_logits(average):
    class Says(nn.Module):
        def __init__(self, *logits):
            super().__init__()
            self.logits = nn.Parameter(torch.tensor([logits], dtype=torch.bfloat16))

        def forward(self, x):
            return self.logits.expand(len(x), -1)

    ensemble = Ensemble({"a": Says(1e4, -1e4, 0.0), "b": Says(-1e4, 1e4, 0.0)}, average=average)
    out = ensemble(torch.zeros(2, 1))
    assert out.dtype == torch.float32
    assert out.isfinite().all()
    out.logsumexp(1).sum().backward()
    assert all(p.grad.isfinite().all() for p in ensemble.parameters())


def test_each_sample_listens_to_its_most_confident_member(x):
    networks = members()
    out = RoutedEnsemble(networks)(x)
    logits = torch.stack([network(x) for network in networks.values()])
    chosen = set()
    for b in range(len(x)):
        confidence = [logits[k, b].softmax(0).max().item() for k in range(len(networks))]
        best = confidence.index(max(confidence))
        chosen.add(best)
        assert torch.equal(out[b], logits[best, b])
    assert len(chosen) > 1


def test_ties_go_to_the_first():
    logits = torch.zeros(3, 2, 5)
    assert MostConfident()(logits).tolist() == [[1, 0, 0], [1, 0, 0]]


def test_a_route_of_ones_own(x):
    class Even(nn.Module):
        def forward(self, logits):
            return torch.full((logits.shape[1], len(logits)), 1 / len(logits))

    networks = members()
    torch.testing.assert_close(RoutedEnsemble(networks, Even())(x), Ensemble(networks)(x))


def test_masked_classes_of_others_do_not_spoil_a_sample():
    class Says(nn.Module):
        def __init__(self, *logits):
            super().__init__()
            self.register_buffer("logits", torch.tensor([logits]))

        def forward(self, x):
            return self.logits.expand(len(x), -1)

    out = RoutedEnsemble({"a": Says(0.0, 0.1, 0.2), "b": Says(9.0, 0.0, float("-inf"))})(torch.zeros(1, 1))
    assert out.tolist() == [[9.0, 0.0, float("-inf")]]


@pytest.mark.parametrize("kind", [Ensemble, RoutedEnsemble])
def test_members_can_be_tapped(kind, x):
    ensemble, seen = kind(members()), []
    ensemble.get_submodule("members.m1.blocks.0").register_forward_hook(lambda _, args, out: seen.append(out))
    ensemble(x)
    assert [value.shape for value in seen] == [(7, 6)]


@pytest.mark.parametrize("kind", [Ensemble, RoutedEnsemble])
@pytest.mark.parametrize("name", ["a.b", "", "keys"])
def test_names_are_checked(kind, name):
    with pytest.raises(InputError, match="members: "):
        kind({name: nn.Identity()})


@pytest.mark.parametrize("kind", [Ensemble, RoutedEnsemble])
def test_members_are_checked(kind, x):
    with pytest.raises(InputError, match="at least one"):
        kind({})
    with pytest.raises(InputError, match=r"same classes.*small \(2,\), large \(3,\)"):
        kind({"small": MLP((4,), 2), "large": MLP((4,), 3)})(x)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"other": 1.0}, "no member is called other; the members are m0, m1, m2"),
        ({"m0": -1.0}, "not be negative or all zero"),
        ({"m0": 0.0, "m1": 0.0, "m2": 0.0}, "not be negative or all zero"),
        ({"m0": float("nan")}, "not be negative or all zero"),
    ],
)
def test_weights_are_checked(weights, message):
    with pytest.raises(InputError, match=message):
        Ensemble(members(), weights)


def test_average_is_checked():
    with pytest.raises(InputError, match="logits or probabilities, not 'votes'"):
        Ensemble(members(), average="votes")


def test_the_route_s_shape_is_checked(x):
    with pytest.raises(InputError, match=r"weights \(batch, members\) = \(7, 3\), not \(3, 7, 5\)"):
        RoutedEnsemble(members(), nn.Identity())(x)
