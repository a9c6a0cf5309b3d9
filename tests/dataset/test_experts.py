from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import lit_distill.dataset.experts as module
from lit_distill import presets
from lit_distill.cli import main
from lit_distill.data import ClassBatches, Digits
from lit_distill.dataset import Experts, ExpertTraining, FlatExperts, SiameseAugmentation, SmoothExperts
from lit_distill.dataset.experts import Batch, Snapshots, expert_file, make_experts
from lit_distill.dataset.flat_experts import gsam_gradient
from lit_distill.dataset.networks.experts import latest_start
from lit_distill.dataset.unroll import Stateless
from lit_distill.errors import InputError
from lit_distill.models import MLP, CondensationConvNet

from .steps import pixels, step

NETWORK = partial(CondensationConvNet, input_shape=(1, 8, 8), width=4, depth=2)
CPU = torch.device("cpu")
WAYS = [
    ExpertTraining(epochs=3, lr=0.05, batch_size=64, momentum=0.9, decay=0.5, augment=SiameseAugmentation()),
    FlatExperts(epochs=3, lr=0.05, batch_size=64),
    SmoothExperts(epochs=3, lr=0.01, batch_size=64),
]


@pytest.fixture(scope="module")
def data():
    batches = ClassBatches(Digits(limit=200), per_class=1)
    batches.setup("fit")
    return batches


def made(folder, data, way=WAYS[0], count=2, network=NETWORK):
    return make_experts(folder, count, network, way, data, CPU)


def files(folder):
    return {file.name: load_file(file)["snapshots"] for file in sorted(Path(folder).glob("*.safetensors"))}


@pytest.mark.parametrize("way", WAYS, ids=lambda way: type(way).__name__)
def test_the_seed_says_everything(way, data, tmp_path):
    made(tmp_path / "one", data, way)
    torch.rand(3)
    made(tmp_path / "two", data, way)
    torch.testing.assert_close(files(tmp_path / "one"), files(tmp_path / "two"), rtol=0, atol=0)
    first, second = files(tmp_path / "one").values()
    assert not torch.equal(first, second)


def test_global_random_numbers_are_left_alone(data, tmp_path):
    state = torch.get_rng_state()
    made(tmp_path, data)
    assert torch.equal(torch.get_rng_state(), state)


def test_snapshots_do_not_alias(data, tmp_path):
    made(tmp_path, data, count=1)
    (snapshots,) = files(tmp_path).values()
    moved = (snapshots[1:] - snapshots[:-1]).norm(dim=1)
    assert (moved > 0).all()


def test_experts_learn(data, tmp_path):
    (expert,) = made(tmp_path, data, ExpertTraining(epochs=20, lr=0.05, momentum=0.9, batch_size=32), count=1)
    network = Stateless(NETWORK())
    x = torch.cat([data.images_of(c) for c in range(10)])
    y = torch.cat([torch.full((len(data.images_of(c)),), c) for c in range(10)])
    right = [(network(w, x).argmax(1) == y).float().mean().item() for w in expert[0:21]]
    assert right[0] < 0.4
    assert right[-1] > 0.8


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("after", [1, 2])
def test_an_interrupted_expert_goes_on(after, data, tmp_path, monkeypatch):
    made(tmp_path / "whole", data)
    epoch, calls = module._epoch, []

    def interrupted(*args):
        calls.append(args[-1])
        if len(calls) > after:
            raise Interrupted
        return epoch(*args)

    monkeypatch.setattr(module, "_epoch", interrupted)
    with pytest.raises(Interrupted):
        made(tmp_path / "parts", data)
    monkeypatch.setattr(module, "_epoch", lambda *args: calls.append(args[-1]) or epoch(*args))
    del calls[:]
    made(tmp_path / "parts", data)
    assert calls == [*range(after, 3), *range(3)]
    torch.testing.assert_close(files(tmp_path / "parts"), files(tmp_path / "whole"), rtol=0, atol=0)
    assert not list((tmp_path / "parts").glob("*.partial"))


def test_other_settings_begin_anew(data, tmp_path, monkeypatch):
    keep = module._keep

    def interrupted(file, *tensors):
        if file.stem == "2":
            raise Interrupted
        keep(file, *tensors)

    monkeypatch.setattr(module, "_keep", interrupted)
    with pytest.raises(Interrupted):
        made(tmp_path / "parts", data)
    monkeypatch.setattr(module, "_keep", keep)
    made(tmp_path / "parts", data, WAYS[1])
    made(tmp_path / "whole", data, WAYS[1])
    torch.testing.assert_close(files(tmp_path / "parts"), files(tmp_path / "whole"), rtol=0, atol=0)


def test_what_is_there_is_not_trained_again(data, tmp_path):
    made(tmp_path, data, count=1)
    before = expert_file(tmp_path, 0).stat().st_mtime_ns
    made(tmp_path, data, count=2)
    assert expert_file(tmp_path, 0).stat().st_mtime_ns == before


def test_files_of_something_else(data, tmp_path):
    made(tmp_path, data, count=1)
    with pytest.raises(InputError, match=r"expert_0000.safetensors holds another network: blocks.0.conv.weight is \["):
        made(tmp_path, data, count=1, network=partial(NETWORK, width=8))
    other = ExpertTraining(epochs=3, lr=0.01)
    with pytest.raises(InputError, match=r"was made with lr 0.05, not 0.01; use another folder, or delete this one"):
        made(tmp_path, data, other, count=1)
    with pytest.raises(InputError, match="holds another network"):
        Experts(partial(MLP, input_shape=(1, 8, 8), hidden=[4]), str(tmp_path), count=1).start(data, CPU)


def test_missing_and_damaged_files(data, tmp_path):
    experts = Experts(NETWORK, str(tmp_path), count=1, length=1)
    with pytest.raises(InputError, match="is missing; `lit-distill experts --config PRESET` makes it"):
        experts.start(data, CPU)
    expert_file(tmp_path, 0).write_bytes(b"nothing")
    with pytest.raises(InputError, match="is damaged, or no trajectory of an expert; delete it"):
        experts.start(data, CPU)


def test_a_learning_rate_that_is_too_high(data, tmp_path):
    with pytest.raises(InputError, match=r"lr: expert 0 has a loss of (nan|inf) in epoch \d; lower lr, 1e\+30"):
        made(tmp_path, data, ExpertTraining(epochs=3, lr=1e30), count=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"lr": float("nan")}, "lr must be positive, not nan"),
        ({"momentum": 1.0}, "momentum must be in"),
    ],
)
def test_wrong_training(arguments, message):
    with pytest.raises(InputError, match=message):
        ExpertTraining(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "count must be at least 1, not 0"),
        ({"min_start": 3, "max_start": 3}, "must not be negative and grow, not 3, 3"),
        ({"first_max_start": 4, "max_start": 3}, "must not be negative and grow, not 0, 4, 3"),
    ],
)
def test_wrong_windows(arguments, message):
    with pytest.raises(InputError, match=message):
        Experts(NETWORK, "nowhere", **arguments)


def sampler(tmp_path, data, **arguments):
    experts = Experts(NETWORK, str(tmp_path), ExpertTraining(epochs=6, batch_size=200), count=2, **arguments)
    experts.start(data, CPU)
    return experts


def test_pieces(data, tmp_path):
    experts = sampler(tmp_path, data, length=2, min_start=1, max_start=4, per_step=3)
    synthetic = pixels(classes=10)
    starts = set()
    for number in range(12):
        drawn = experts.draw(step(synthetic, number))
        assert [piece.number for piece in drawn] == [0, 1, 2]
        for piece in drawn:
            assert piece.share == 1 / 3
            whole = [Snapshots(expert_file(tmp_path, i))[piece.epoch : piece.epoch + 3] for i in range(2)]
            assert any(torch.equal(piece.weights, weights) for weights in whole)
            starts.add(piece.epoch)
    assert starts == {1, 2, 3}


def test_starts_without_a_limit_leave_room(data, tmp_path):
    experts = sampler(tmp_path, data, length=2)
    assert experts.last_start == 5
    with pytest.raises(InputError, match=r"must leave pieces within the 6 epochs of the experts in .*, not 0, 6 and 2"):
        sampler(tmp_path, data, length=2, max_start=6)


def test_pieces_become_more_difficult(data, tmp_path):
    experts = sampler(tmp_path, data, length=1, first_max_start=1, max_start=6, growth=10)
    synthetic = pixels(classes=10)
    for number in range(30):
        (piece,) = experts.draw(step(synthetic, number))
        assert piece.epoch < latest_start(number, 6, 1, 10)


def test_snapshots_that_do_not_move(data, tmp_path):
    experts = sampler(tmp_path, data, length=2)
    snapshots = next(iter(files(tmp_path).values()))
    for expert in experts.experts:
        network = experts.stateless
        module.save_snapshots(expert.file, snapshots[:1].expand(7, -1), network, expert.card["settings"])
    with pytest.raises(InputError, match=r"has the same weights after epochs \d and \d, so there is nothing to match"):
        experts.draw(step(pixels(classes=10)))


def test_gsam_without_a_neighbourhood_is_sgd():
    network = Stateless(NETWORK().double())
    x, y = torch.randn(6, 1, 8, 8, dtype=torch.float64), torch.arange(6)
    batch = Batch(x, x, y)
    plain, loss = ExpertTraining().gradient(network, network.flat(), batch, 0)
    flat, same = FlatExperts(rho=1e-9).gradient(network, network.flat(), batch, 0)
    torch.testing.assert_close(flat, plain, rtol=0, atol=1e-7)
    assert loss == same


def test_gsam_does_not_depend_on_the_scale_of_the_loss():
    """Its step to the worst place nearby has a length of its own."""

    def loss(w, factor):
        return factor * (w.square() * torch.tensor([1.0, 3.0, 0.5], dtype=w.dtype)).sum()

    w = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
    one, many = (gsam_gradient(partial(loss, factor=factor), w, rho=0.1)[0] for factor in (1.0, 7.0))
    torch.testing.assert_close(many, 7 * one)


def test_smooth_experts_learn_slowly_first():
    factors = [SmoothExperts.factor(epoch) for epoch in range(15)]
    assert factors == sorted(factors)
    assert factors[0] == 0.5
    assert factors[10:] == [1.0] * 5


def test_command(workshop, capsys):
    given = ["experts", "--config", str(presets.find("mtt_digits_ipc1")), "--data.data.init_args.limit=100"]
    flags = ["--model.networks.init_args.count=1", "--model.networks.init_args.folder=own"]
    training = "--model.networks.init_args.training.init_args.epochs=6"
    assert main([*given, *flags, training]) == 0
    assert "1 experts of 6 epochs" in capsys.readouterr().out
    assert expert_file("own", 0).exists()
    assert not Path("runs").exists()
    assert main(["experts", "--config", str(presets.find("dm_digits_ipc1"))]) == 2
    assert "Fresh has no experts; accepted is a DatasetDistiller whose networks are" in capsys.readouterr().err
