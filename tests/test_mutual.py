"""Networks that learn together: equal to plain loops, on one rank as on two, and resumed as if never stopped."""

import copy
from signal import SIGKILL

import lightning as L
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import lit_distill
from lit_distill import presets
from lit_distill.callbacks import GradientConflict
from lit_distill.cli import main
from lit_distill.cli.trainer import cli
from lit_distill.data import Digits
from lit_distill.errors import InputError
from lit_distill.losses import CTKD, KD, RKD, CrossEntropy, Standardised
from lit_distill.models import MLP
from lit_distill.mutual import MutualDistiller
from lit_distill.optim import DOT
from lit_distill.report import percent
from lit_distill.supervised import Supervised

from . import mutual_jobs as jobs
from .distributed.ranks import launch, run

CLASSES = 5


def network(seed, width=6):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, CLASSES)).double()


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.01)


def mutual(number=2, kind=MutualDistiller, **kwargs):
    """A student and a number of peers of other widths, by the paper's objective."""
    settings = {
        "student": network(0),
        "peers": {f"p{i}": network(i, width=6 + i) for i in range(1, number + 1)},
        "losses": {"ce": CrossEntropy(), "kd": KD(temperature=1.0)},
        "optimizer": sgd,
    }
    return kind(**settings | kwargs)


def batch(rows=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(rows, 4, generator=generator, dtype=torch.float64),
        torch.randint(CLASSES, (rows,), generator=generator),
    )


def total(module, batch):
    return sum(module.weight_of(name) * value for name, value in module.terms(batch)[1].items())


# -- the objective ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("peers", [1, 2, 3])
def test_gradients_are_those_of_the_papers_formula_for_each_network(peers):
    module, (x, y) = mutual(peers), batch()
    total(module, (x, y)).backward()
    networks = list(module.networks().values())
    for k, own in enumerate(networks):
        alone = copy.deepcopy(own)
        alone.zero_grad()
        log_q, loss = alone(x).log_softmax(-1), 0.0
        for other in (n for i, n in enumerate(networks) if i != k):
            p = other(x).detach().softmax(-1)
            loss = loss + (p * (p.log() - log_q)).sum() / len(x) / peers
        (loss - log_q.gather(1, y[:, None]).mean()).backward()
        torch.testing.assert_close([p.grad for p in own.parameters()], [p.grad for p in alone.parameters()])


def test_trained_with_one_optimizer_as_by_hand_with_one_for_each(tmp_path):
    module, batches = mutual(2, input_shape=(4,)), [batch(seed=seed) for seed in range(4)]
    by_hand = copy.deepcopy(module.networks())
    optimizers = {name: sgd(net.parameters()) for name, net in by_hand.items()}
    for x, y in batches:
        answers = {name: net(x) for name, net in by_hand.items()}
        for name, answer in answers.items():
            others = [other.detach() for key, other in answers.items() if key != name]
            log_q = answer.log_softmax(-1)
            kls = [F.kl_div(log_q, other.log_softmax(-1), reduction="batchmean", log_target=True) for other in others]
            optimizers[name].zero_grad()
            (F.cross_entropy(answer, y) + sum(kls) / len(kls)).backward()
        for optimizer in optimizers.values():
            optimizer.step()
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    loader = DataLoader(TensorDataset(x, y), batch_size=8)
    jobs.trainer(tmp_path, max_epochs=1, precision="64-true").fit(module, loader, loader)
    for name, net in module.networks().items():
        torch.testing.assert_close(dict(net.state_dict()), dict(by_hand[name].state_dict()))


def test_equal_networks_have_nothing_to_teach_and_learn_as_one_alone():
    peers = {"a": network(0), "b": network(0)}
    module = mutual(peers=peers)
    _, terms = module.terms(batch())
    for name in ("kd", "kd_a", "kd_b"):
        assert terms[name].abs() < 1e-12
    assert terms["ce"] == terms["ce_a"] == terms["ce_b"]
    total(module, batch()).backward()
    alone = Supervised(student=network(0), optimizer=sgd)
    alone.terms(batch())[1]["ce"].backward()
    for net in module.networks().values():
        torch.testing.assert_close([p.grad for p in net.parameters()], [p.grad for p in alone.student.parameters()])


def test_with_forward_kl_the_others_teach_what_their_mean_does():
    module, (x, _) = mutual(3, losses={"kd": KD(temperature=1.0)}), batch()
    _, terms = module.terms((x, batch()[1]))
    gradients = torch.autograd.grad(terms["kd"], list(module.student.parameters()))
    mean = torch.stack([peer(x).softmax(-1) for peer in module.peers.values()]).mean(0).detach()
    cross_entropy = F.cross_entropy(module.student(x), mean)
    torch.testing.assert_close(gradients, torch.autograd.grad(cross_entropy, list(module.student.parameters())))


def test_no_network_has_a_gradient_of_anothers_loss():
    module = mutual(2)
    _, terms = module.terms(batch())
    networks = module.networks()
    for term, value in terms.items():
        owner = next((name for name in module.peers if term.endswith(f"_{name}")), "student")
        for name, net in networks.items():
            given = torch.autograd.grad(value, list(net.parameters()), retain_graph=True, allow_unused=True)
            assert all(g is not None for g in given) if name == owner else all(g is None for g in given)


def test_a_weight_counts_for_every_network_and_may_change():
    module = mutual(1)
    first = total(module, batch())
    module.losses["kd"].weight = 0.0
    _, terms = module.terms(batch())
    torch.testing.assert_close(total(module, batch()), terms["ce"] + terms["ce_p1"])
    module.losses["kd"].weight = 3.0
    torch.testing.assert_close(total(module, batch()), first + 2 * (terms["kd"] + terms["kd_p1"]))
    assert terms["kd"] > 0


def test_any_term_on_logits_and_mixed_labels():
    module = mutual(2, losses={"ce": CrossEntropy(), "kd": Standardised(KD(temperature=2.0))})
    x, y = batch()
    mixed = 0.7 * F.one_hot(y, CLASSES) + 0.3 * F.one_hot(y.roll(1), CLASSES)
    assert total(module, (x, mixed.double())).isfinite()


class Own(MutualDistiller):
    """An objective of one's own: squared difference of logits."""

    def distill(self, student, teacher, target):
        return {"mse": F.mse_loss(student.logits, teacher.logits)}


def test_an_objective_of_your_own():
    module = mutual(kind=Own, losses={})
    student, terms = module.terms(batch())
    assert list(terms) == ["mse", "mse_p1", "mse_p2"]
    expected = [F.mse_loss(student.logits, peer(batch()[0])) for peer in module.peers.values()]
    torch.testing.assert_close(terms["mse"], sum(expected) / 2)
    assert module.weight_of("mse_p1") == 1.0


# -- a run ------------------------------------------------------------------------------------------------------------


def test_each_network_is_validated():
    x, y = batch(rows=24)
    module = mutual(input_shape=(4,)).float()
    run_ = jobs.trainer(None)
    (logged,) = run_.validate(module, DataLoader(TensorDataset(x.float(), y), batch_size=10), verbose=False)
    assert logged.keys() == {"val/acc", "val/ece", "val/acc_p1", "val/acc_p2"}
    keys = ("val/acc", "val/acc_p1", "val/acc_p2")
    for key, net in zip(keys, module.networks().values(), strict=True):
        assert logged[key] == pytest.approx((net(x.float()).argmax(-1) == y).float().mean().item())


def test_the_command_line_reports_the_student_and_its_peers(workshop, capsys):
    short = [
        "--trainer.max_epochs=1", "--trainer.log_every_n_steps=1",
        *(f"--trainer.limit_{part}_batches=2" for part in ("train", "val", "test")),
    ]  # fmt: skip
    done = cli(["fit", "--config", str(presets.find("dml_digits")), *short])
    said = capsys.readouterr().out
    rows = {line.split("│")[1].strip(): line for line in said.splitlines() if line.startswith("│")}
    assert {"student alone", "student distilled", "peer second"} <= set(rows)
    assert percent(done.trainer.callback_metrics["test/acc_second"].item()) in rows["peer second"]
    (file,) = workshop.rglob("student.safetensors")
    assert load_file(file).keys() == done.model.student.state_dict().keys()
    (checkpoint,) = workshop.rglob("last.ckpt")
    saved = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert saved.keys() == done.model.state_dict().keys()
    assert any(name.startswith("peers.second.") for name in saved)


def test_an_optimizer_that_tells_terms_apart_is_refused(tmp_path):
    module = jobs.module()
    module.optimizer = lambda parameters: DOT(parameters, lr=0.1)
    with pytest.raises(InputError, match="optimizer: DOT tells the terms of one network apart"):
        jobs.trainer(tmp_path, max_epochs=1).fit(module, jobs.data())


def test_gradient_conflict_is_between_the_students_terms(tmp_path):
    module = jobs.module()
    run_ = jobs.trainer(tmp_path, GradientConflict(every=1), max_epochs=1)
    run_.fit(module, jobs.data())
    norms = {name: value for name, value in run_.callback_metrics.items() if name.startswith("grad_norm/")}
    assert norms.keys() == {"grad_norm/ce", "grad_norm/kd"}
    assert all(value > 0 for value in norms.values())


def test_the_doctor_finds_nothing_wrong(workshop, capsys):
    assert main(["doctor", "--config", str(presets.find("dml_digits"))]) == 0
    assert "Nothing looks wrong" in capsys.readouterr().out


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """A training on one process."""
    return run(jobs.fit, tmp_path_factory.mktemp("one"), ranks=1)[0]


@pytest.mark.distributed
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_ranks_equal_one(strategy, one, tmp_path):
    for name in ("student.fc.weight", "peers.wide.fc.weight", "peers.flat.fc.weight"):
        assert (one["weights"][name] - one["before"][name]).abs().max() > 1e-3
    for result in run(jobs.fit, tmp_path / strategy, strategy):
        torch.testing.assert_close(result["weights"], one["weights"], rtol=0, atol=1e-5)
        assert result["validation"] == pytest.approx(one["validation"], abs=1e-5)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    return run(jobs.long_run, tmp_path_factory.mktemp("whole"), ranks=1)[0]


@pytest.mark.parametrize("kill", [2, 6], ids=["within an epoch", "between two"])
def test_resumed_equals_uninterrupted(kill, whole, tmp_path):
    assert launch(jobs.long_run, tmp_path, ranks=1, kill=kill).codes == [-SIGKILL]
    (resumed,) = run(jobs.long_run, tmp_path, ranks=1, resume="last.ckpt")
    assert resumed["steps"] == whole["steps"] == jobs.STEPS
    torch.testing.assert_close(resumed["weights"], whole["weights"], rtol=0, atol=0)


def test_it_is_public():
    assert lit_distill.MutualDistiller is MutualDistiller


@pytest.mark.learns
def test_what_they_learn_together_is_alike_on_samples_that_they_never_saw(tmp_path):
    """The total variation between the answers of two networks is lower than between two that learnt apart.

    Over five seeds 1.55 to 1.68 times, with accuracies from 0.91 up.
    """
    L.seed_everything(0, verbose=False)
    nets = [MLP(hidden=(64,)) for _ in range(2)]
    apart = copy.deepcopy(nets)
    settings = {
        "optimizer": lambda parameters: torch.optim.Adam(parameters, lr=5e-3),
        "scheduler": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20),
    }
    dml = {"ce": CrossEntropy(), "kd": KD(temperature=1.0)}
    together = MutualDistiller(student=nets[0], peers={"other": nets[1]}, losses=dml, **settings)
    for module in (*(Supervised(student=net, **settings) for net in apart), together):
        run_ = jobs.trainer(tmp_path, max_epochs=20, limit_val_batches=0)
        run_.fit(module, Digits(limit=200))
        (metrics,) = run_.test(module, Digits(), verbose=False)
        assert all(value > 0.88 for name, value in metrics.items() if "acc" in name)

    def distance(pair):
        first, second = (torch.cat(run_.predict(Supervised(student=net, **settings), Digits())) for net in pair)
        return (first.softmax(-1) - second.softmax(-1)).abs().sum(-1).mean() / 2

    assert distance(nets) < distance(apart) / 1.3


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"peers": {}}, r"peers: got \[\]; accepted is one or more"),
        ({"peers": {"student": network(1)}}, "none of them called 'student'"),
        ({"losses": {"rkd": RKD(layers={"0": "0"})}}, "losses.rkd: RKD is not one term for every pair"),
        ({"losses": {"kd": KD(teacher="big")}}, "losses.kd: KD is not one term for every pair"),
        ({"losses": {"kd": CTKD(KD())}}, "without layers, parameters or the name of a teacher"),
        (
            {"losses": {"kd": KD(), "kd_a": KD()}, "peers": {"a": network(1)}},
            r"\['a'\] with losses \['kd', 'kd_a'\] give two terms one name",
        ),
        ({"peers": {"a": nn.Linear(4, 3)}, "input_shape": (4,)}, r"peers.a: answers with shape \(2, 3\)"),
        ({"peers": {"a": nn.Linear(9, 5)}, "input_shape": (4,)}, "peers.a: Linear does not take inputs"),
    ],
)
def test_what_is_refused_is_named_in_one_line(given, message):
    with pytest.raises(InputError, match=message) as error:
        mutual(1, **given)
    assert "\n" not in str(error.value)


def test_a_network_that_is_there_twice():
    twin = network(0)
    with pytest.raises(InputError, match="a network appears twice"):
        mutual(student=twin, peers={"a": twin})
