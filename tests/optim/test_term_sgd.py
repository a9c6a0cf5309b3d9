"""The optimizers against updates written by hand, and in loops of one's own."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lit_distill.errors import InputError
from lit_distill.optim import DOT, DeepKD, TermSGD

LR, DECAY = 0.1, 0.02


class Logits(nn.Module):
    """A student whose parameters all terms reach."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Linear(4, 6)
        self.head = nn.Linear(6, 3)
        self.to(dtype)

    def terms(self, x, y):
        logits = self.head(self.trunk(x).tanh())
        return {"ce": F.cross_entropy(logits, y), "kd": logits.square().mean(), "more": (logits - 1).abs().mean()}


class Features(Logits):
    """Terms share a trunk only: the head belongs to the labels, the projector to the others."""

    def __init__(self, dtype=torch.float64):
        super().__init__(dtype)
        self.projector = nn.Linear(6, 5, dtype=dtype)

    def terms(self, x, y):
        features = self.trunk(x).tanh()
        said, projected = self.head(features), self.projector(features)
        return {"ce": F.cross_entropy(said, y), "kd": projected.square().mean(), "more": (projected - 1).abs().mean()}


def batches(count=5, size=8, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        x = torch.randn(size, 4, generator=generator, dtype=torch.float64).to(dtype)
        yield x, torch.randint(3, (size,), generator=generator)


def sgd(params):
    return torch.optim.SGD(params, lr=LR, momentum=0.9, weight_decay=DECAY)


def dot(params):
    return DOT(params, lr=LR, weight_decay=DECAY)


def backward(optimizer, terms):
    optimizer.backward(terms) if isinstance(optimizer, TermSGD) else sum(terms.values()).backward()


def trained(make, net=None, prepare=lambda net: None, **kwargs):
    """A network after some steps, with ``prepare(net)`` before each."""
    net = Logits() if net is None else net
    optimizer = make(net.parameters())
    for x, y in batches(**kwargs):
        optimizer.zero_grad()
        backward(optimizer, net.terms(x, y))
        prepare(net)
        optimizer.step()
    return net


def gradients(net, terms, names):
    loss = sum(terms[name] for name in names)
    return torch.autograd.grad(loss, list(net.parameters()), retain_graph=True, allow_unused=True)


def by_hand(net, groups, factor=lambda total: 1.0):
    """A network after as many steps by the formula; ``groups`` are terms and their momentum, the lowest first.

    ``factor`` of the whole gradient multiplies those of all groups.
    """
    params = list(net.parameters())
    buffers = [[0.0] * len(params) for _ in groups]
    for x, y in batches():
        terms = net.terms(x, y)
        total, *each = (gradients(net, terms, names) for names in (terms, *(names for names, _ in groups)))
        scale = factor(total)
        with torch.no_grad():
            for i, p in enumerate(params):
                reached = [group[i] is not None for group in each]
                for k, (_, momentum) in enumerate(groups):
                    gradient = scale * each[k][i] if reached[k] else 0.0
                    gradient = gradient + DECAY * p if k == 0 else gradient
                    buffers[k][i] = (momentum if sum(reached) > 1 else 0.9) * buffers[k][i] + gradient
                p -= LR * sum(buffer[i] for buffer in buffers)
    return net


def authors_dot(net, delta, decay):
    """mdistiller's optimizer, restated: the task's step first, then that of distillation."""
    task, kd = 0.9 - delta, 0.9 + delta
    memory = {"task": {}, "kd": {}}
    for x, y in batches():
        terms = net.terms(x, y)
        by_kd, by_task = gradients(net, terms, ["kd", "more"]), gradients(net, terms, ["ce"])
        with torch.no_grad():
            for p, g, other in zip(net.parameters(), by_task, by_kd, strict=True):
                if g is not None:
                    old = memory["task"].get(p)
                    g = g + decay * p
                    momentum = (task + kd) / 2 if other is None else task
                    memory["task"][p] = g if old is None else momentum * old + g
                    p -= LR * memory["task"][p]
            for p, g, other in zip(net.parameters(), by_kd, by_task, strict=True):
                if g is not None:
                    old = memory["kd"].get(p)
                    if old is not None and other is None:
                        g = g + decay * p
                    momentum = (task + kd) / 2 if other is None else kd
                    memory["kd"][p] = g if old is None else momentum * old + g
                    p -= LR * memory["kd"][p]
    return net


def authors_deepkd(net, target, others):
    """The update of DeepKD's code without weight decay, restated; the task's momentum is nowhere used."""
    memory = {}
    for x, y in batches():
        terms = net.terms(x, y)
        for name, momentum in {"ce": target, "more": others, "kd": target}.items():
            for i, g in enumerate(gradients(net, terms, [name])):
                memory[name, i] = g if (name, i) not in memory else momentum * memory[name, i] + g
        with torch.no_grad():
            for i, p in enumerate(net.parameters()):
                p -= LR * sum(memory[name, i] for name in terms)
    return net


def close(a, b, **tolerance):
    torch.testing.assert_close(dict(a.named_parameters()), dict(b.named_parameters()), **tolerance)


def equal(a, b):
    close(a, b, rtol=0, atol=0)


def distance(a, b):
    return max((p - q).abs().max().item() for p, q in zip(a.parameters(), b.parameters(), strict=True))


# -- the update -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "decay"), [(Logits, DECAY), (Features, 0.0)])
def test_dot_is_that_of_the_authors(kind, decay):
    net = trained(lambda params: DOT(params, lr=LR, weight_decay=decay), kind())
    close(net, authors_dot(kind(), 0.075, decay))
    assert distance(net.trunk, authors_dot(kind(), 0.0, decay).trunk) > 1e-3


@pytest.mark.parametrize("kind", [Logits, Features])
def test_dot_is_its_formula(kind):
    close(trained(dot, kind()), by_hand(kind(), [(["ce"], 0.825), (["kd", "more"], 0.975)]))


def test_what_one_gradient_alone_reaches_trains_as_by_sgd():
    frozen = [copy.deepcopy(Features()) for _ in range(2)]
    for net in frozen:
        net.trunk.requires_grad_(False)  # through which the two would hear of each other
    close(*(trained(make, net) for make, net in zip((dot, sgd), frozen, strict=True)))


@pytest.mark.parametrize("kind", [Logits, Features])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_without_a_difference_it_is_sgd_to_the_last_bit(kind, dtype):
    def make(params):
        return DOT(params, lr=LR, weight_decay=DECAY, delta=0.0)

    equal(trained(make, kind(dtype), dtype=dtype), trained(sgd, kind(dtype), dtype=dtype))


@pytest.mark.parametrize("kind", [Logits, Features])
def test_deepkd_is_its_formula(kind):
    net = trained(lambda params: DeepKD(params, lr=LR, weight_decay=DECAY, target=("kd",)), kind())
    close(net, by_hand(kind(), [(["kd"], 0.825), (["more"], 0.95), (["ce"], 0.975)]))


def test_deepkd_is_that_of_the_authors_with_the_momentum_that_the_task_has_there():
    def make(params, **kwargs):
        return DeepKD(params, lr=LR, target=("kd",), **kwargs)

    code = trained(lambda params: make(params, task_delta=-0.075))
    close(code, authors_deepkd(Logits(), target=0.825, others=0.95))
    assert distance(code, trained(make)) > 1e-3


def test_terms_with_the_same_momentum_share_a_buffer_and_a_backward_pass():
    net, passes = Logits(), []
    net.head.register_full_backward_hook(lambda *args: passes.append(1))
    optimizer = TermSGD(net.parameters(), lr=LR, deltas={"ce": -0.05, "more": -0.05})
    (x, y), *_ = batches(1)
    optimizer.backward(net.terms(x, y))
    optimizer.step()
    assert len(passes) == 2
    assert {len(state) for state in optimizer.state.values()} == {2}


def test_parameter_groups_have_their_own_settings():
    nets = [Logits(), Logits()]

    def groups(net):
        return [{"params": net.head.parameters(), "lr": 0.0}, {"params": net.trunk.parameters(), "momentum": 0.8}]

    one = trained(lambda _: DOT(groups(nets[0]), lr=LR, weight_decay=DECAY), nets[0])
    nets[1].head.requires_grad_(False)
    other = trained(lambda _: DOT(nets[1].trunk.parameters(), lr=LR, weight_decay=DECAY, momentum=0.8), nets[1])
    close(one, other)


# -- what others do to gradients --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Logits, Features])
def test_two_halves_of_a_batch_are_one_batch(kind):
    def halves(net):
        optimizer = dot(net.parameters())
        for x, y in batches():
            optimizer.zero_grad()
            for half in (slice(0, 4), slice(4, 8)):
                terms = net.terms(x[half], y[half])
                optimizer.backward({name: term / 2 for name, term in terms.items()})
            optimizer.step()
        return net

    close(halves(kind()), trained(dot, kind()))


@pytest.mark.parametrize("kind", [Logits, Features])
def test_clipping_by_norm_scales_all_gradients_alike(kind):
    def factor(total):
        norm = torch.cat([gradient.flatten() for gradient in total]).norm()
        return (0.2 / (norm + 1e-6)).clamp(max=1)

    net = trained(dot, kind(), lambda net: nn.utils.clip_grad_norm_(net.parameters(), 0.2))
    close(net, by_hand(kind(), [(["ce"], 0.825), (["kd", "more"], 0.975)], factor))
    assert distance(net, trained(dot, kind())) > 1e-3


def test_the_first_step_goes_where_the_gradient_goes_whatever_was_done_to_it():
    def change(net):
        nn.utils.clip_grad_value_(net.parameters(), 0.01)
        net.head.bias.grad.add_(1.0)

    close(trained(dot, prepare=change, count=1), trained(sgd, prepare=change, count=1))


@pytest.mark.parametrize("make", [dot, lambda params: DeepKD(params, lr=LR, target=("kd",))])
def test_a_scaler_changes_nothing(make):
    net = Logits(torch.float32)
    optimizer, scaler = make(net.parameters()), torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for x, y in batches(dtype=torch.float32):
        optimizer.zero_grad()
        optimizer.backward({name: scaler.scale(term) for name, term in net.terms(x, y).items()})
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(net.parameters(), 0.2)
        scaler.step(optimizer)
        scaler.update()
    clipped = trained(make, Logits(torch.float32), lambda n: nn.utils.clip_grad_norm_(n.parameters(), 0.2),
                      dtype=torch.float32)  # fmt: skip
    close(net, clipped)


def test_a_scaler_skips_the_step_where_one_gradient_overflows():
    p = nn.Parameter(torch.ones(3))
    optimizer, scaler = DOT([p], lr=LR), torch.amp.GradScaler("cpu", init_scale=2.0**10)
    huge = 1e38 * p.sum()  # times the scale more than float32 holds, and together with its opposite nothing
    optimizer.backward({"ce": scaler.scale(huge), "kd": scaler.scale(-huge)})
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(p, torch.ones(3))
    assert scaler.get_scale() == 2.0**9
    optimizer.zero_grad()
    optimizer.backward({"ce": scaler.scale(p.sum()), "kd": scaler.scale(p.sum())})
    scaler.step(optimizer)
    torch.testing.assert_close(p.detach(), torch.full((3,), 1 - 2 * LR))


def test_gradients_that_cancel_leave_the_weights_alone():
    p = nn.Parameter(torch.ones(3))
    optimizer = DOT([p], lr=LR)
    for _ in range(2):
        optimizer.zero_grad()
        optimizer.backward({"ce": p.sum(), "kd": -p.sum()})
        optimizer.step()
    assert torch.equal(p, torch.ones(3))


def test_gradients_that_others_have_set_to_none_are_forgotten():
    net = Logits()
    optimizer = dot(net.parameters())
    for x, y in batches():
        net.zero_grad()
        optimizer.backward(net.terms(x, y))
        optimizer.step()
    equal(net, trained(dot))


@pytest.mark.parametrize("set_to_none", [True, False])
def test_a_closure_and_either_way_to_zero(set_to_none):
    net = Logits()
    optimizer = dot(net.parameters())
    for x, y in batches():

        def closure(x=x, y=y):
            optimizer.zero_grad(set_to_none)
            terms = net.terms(x, y)
            optimizer.backward(terms)
            return sum(terms.values())

        assert optimizer.step(closure).requires_grad
    equal(net, trained(dot))


def test_a_compiled_network_is_passed_backwards_twice():
    weights = []
    for compiled in (False, True):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
        if compiled:
            net.compile(backend="aot_eager")  # gives buffers away as inductor does, and needs no compiler
        optimizer = dot(net.parameters())
        for x, y in batches(2, dtype=torch.float32):
            optimizer.zero_grad()
            logits = net(x)
            optimizer.backward({"ce": F.cross_entropy(logits, y), "kd": logits.square().mean()})
            optimizer.step()
        weights.append(net.state_dict())
    torch.testing.assert_close(*weights)


def test_half_precision_weights_keep_the_momenta_apart():
    exact = trained(dot, Features(torch.float32), dtype=torch.float32)
    half = trained(dot, Features(torch.float32).bfloat16(), dtype=torch.bfloat16)
    other = trained(lambda params: DOT(params, lr=LR, delta=0.0), Features(torch.float32), dtype=torch.float32)
    assert distance(half.float(), exact) < 0.3 * distance(other, exact)


# -- settings and state -----------------------------------------------------------------------------------------------


def test_saved_and_loaded_it_goes_on():
    whole, net = Features(), Features()
    first = dot(net.parameters())
    steps = list(batches(6))

    def go_on(net, optimizer, steps):
        for x, y in steps:
            optimizer.zero_grad()
            optimizer.backward(net.terms(x, y))
            optimizer.step()

    go_on(whole, dot(whole.parameters()), steps)
    go_on(net, first, steps[:3])
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = dot(net.parameters())
    second.load_state_dict(torch.load(file, weights_only=True))
    go_on(net, second, steps[3:])
    equal(net, whole)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"lr": -1.0}, "lr: -1.0 given to DOT"),
        ({"weight_decay": -1.0}, "weight_decay: -1.0 given to DOT"),
        ({"delta": 0.1}, r"momentum: 0\.9 with a delta of 0\.1 is 1 in DOT; accepted is what is in \[0, 1\)"),
        ({"momentum": 0.05}, r"momentum: 0\.05 with a delta of -0\.075 is -0\.025 in DOT"),
        ({"momentum": 1.0, "delta": -0.1}, "momentum: 1 with a delta of 0 is 1 in DOT"),
    ],
)
def test_numbers_out_of_range(kwargs, message):
    with pytest.raises(InputError, match=message):
        DOT(Logits().parameters(), **{"lr": LR} | kwargs)


def test_a_term_that_is_not_there():
    net = Logits()
    (x, y), *_ = batches(1)
    optimizer = DOT(net.parameters(), lr=LR, task=("ce", "label"))
    with pytest.raises(
        InputError, match="has a momentum for the term 'label', which is none of the terms: ce, kd, more"
    ):
        optimizer.backward(net.terms(x, y))


def test_gradients_that_cannot_be_told_apart():
    net = Logits()
    optimizer = dot(net.parameters())
    (x, y), *_ = batches(1)
    sum(net.terms(x, y).values()).backward()
    with pytest.raises(InputError, match=r"DOT needs the gradient of each term; let its backward\(terms\)"):
        optimizer.step()


def test_a_scheduler_that_moves_the_momentum_too_far():
    net = Logits()
    optimizer = dot(net.parameters())
    (x, y), *_ = batches(1)
    optimizer.backward(net.terms(x, y))
    optimizer.param_groups[0]["momentum"] = 0.95
    with pytest.raises(InputError, match=r"momentum: 0\.95 with a delta of 0\.075 is 1\.025 in DOT"):
        optimizer.step()


def test_terms_without_a_gradient_are_no_terms():
    net = Logits()
    optimizer = DOT(net.parameters(), lr=LR, weight_decay=DECAY)
    for x, y in batches():
        optimizer.zero_grad()
        optimizer.backward({"ce": torch.zeros(()), "kd": net.terms(x, y)["kd"]})
        optimizer.step()
    alone = Logits()
    alone.terms = lambda x, y: {"kd": Logits.terms(alone, x, y)["kd"]}
    close(net, trained(sgd, alone))
