"""Weights from files of every kind, and one-line errors for those that cannot be used."""

import argparse

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lit_distill.errors import InputError
from lit_distill.models import MLP, InputAdapter, restored


def network(num_classes=3, hidden=(5,), seed=0):
    torch.manual_seed(seed)
    return MLP((4,), num_classes, hidden)


def prefixed(prefix, state):
    return {prefix + name: value for name, value in state.items()}


WRITERS = {
    "safetensors": (".safetensors", lambda s, f: save_file(s, f)),
    "plain": (".pth", lambda s, f: torch.save(s, f)),
    "legacy format": (".pth", lambda s, f: torch.save(s, f, _use_new_zipfile_serialization=False)),
    "state_dict": (".pt", lambda s, f: torch.save({"state_dict": s, "epoch": 3}, f)),
    "model": (".pth", lambda s, f: torch.save({"model": s, "best_acc": torch.tensor(0.7), "optimizer": {}}, f)),
    "data parallel": (".pth", lambda s, f: torch.save({"model": prefixed("module.", s)}, f)),
    "compiled": (".pth", lambda s, f: torch.save(prefixed("_orig_mod.", s), f)),
    "compiled layer": (
        ".pth",
        lambda s, f: torch.save({n.replace("linear", "_orig_mod.linear"): v for n, v in s.items()}, f),
    ),
    "someone's module": (".ckpt", lambda s, f: torch.save({"state_dict": prefixed("model.", s)}, f)),
    "ours": (
        ".ckpt",
        lambda s, f: torch.save(
            {
                "state_dict": prefixed("student._orig_mod.", s) | {"losses.hint.projector.weight": torch.ones(2)},
                "pytorch-lightning_version": "2.6.4",
                "hyper_parameters": {"lr": 0.1},
            },
            f,
        ),
    ),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_formats(kind, tmp_path):
    suffix, write = WRITERS[kind]
    source, model = network(seed=1), network(seed=2).eval()
    file = tmp_path / f"weights{suffix}"
    write(source.state_dict(), file)
    assert restored(model, str(file)) is model
    assert not model.training
    for name, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


def test_own_names_are_not_taken_for_wrappers(tmp_path):
    source = InputAdapter(network(seed=1))
    torch.save(source.state_dict(), tmp_path / "w.pt")
    model = restored(InputAdapter(network(seed=2)), str(tmp_path / "w.pt"))
    x = torch.randn(2, 4, 1, 1)
    model.model.input_shape = source.model.input_shape = (4, 1, 1)
    assert torch.equal(model(x), source(x))


def test_shared_weights_may_be_stored_once(tmp_path):
    def tied(seed):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
        model[1].weight = model[0].weight
        return model

    for stored in ("0.weight", "1.weight"):
        save_file({stored: tied(1)[0].weight.detach()}, tmp_path / "w.safetensors")
        model = restored(tied(2), str(tmp_path / "w.safetensors"))
        assert model[0].weight is model[1].weight
        assert torch.equal(model[0].weight, tied(1)[0].weight)


def test_counters_may_be_missing(tmp_path):
    source = nn.BatchNorm1d(3)
    source.running_mean.fill_(2)
    state = {n: v for n, v in source.state_dict().items() if n != "num_batches_tracked"}
    torch.save(dict(state), tmp_path / "old.pth")
    assert restored(nn.BatchNorm1d(3), str(tmp_path / "old.pth")).running_mean.tolist() == [2, 2, 2]


def refusal(model, file, recipe=None):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InputError) as error:
        restored(model, str(file), recipe)
    message = str(error.value)
    assert "\n" not in message
    assert str(file) in message
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    return message


def test_missing_file(tmp_path):
    assert "does not exist, and no recipe" in refusal(network(), tmp_path / "none.pt")


def test_folder(tmp_path):
    assert "is a folder" in refusal(network(), tmp_path)


@pytest.mark.parametrize("kind", ["safetensors", "plain", "legacy format"])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_truncated_file(kind, kept, tmp_path):
    suffix, write = WRITERS[kind]
    file = tmp_path / f"cut{suffix}"
    write(network().state_dict(), file)
    file.write_bytes(file.read_bytes()[: int(kept * file.stat().st_size)])
    assert "cannot be read" in refusal(network(), file)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_garbage(suffix, tmp_path):
    file = tmp_path / f"garbage{suffix}"
    file.write_bytes(b"<html>404\nnot found</html>" * 9)
    assert "cannot be read" in refusal(network(), file)


def test_objects_are_not_unpickled(tmp_path):
    file = tmp_path / "objects.pt"
    torch.save({"opt": argparse.Namespace(lr=0.1), "model": network().state_dict()}, file)
    assert "argparse.Namespace" in refusal(network(), file)


@pytest.mark.parametrize(("value", "message"), [({"epoch": 3}, "its keys: epoch"), ([1.0], "but a list")])
def test_no_weights(value, message, tmp_path):
    torch.save(value, tmp_path / "none.pt")
    assert message in refusal(network(), tmp_path / "none.pt")


def test_other_number_of_classes(tmp_path):
    torch.save(network(num_classes=100).state_dict(), tmp_path / "w.pt")
    assert "a head for 100 classes (fc), the model has 10" in refusal(network(10), tmp_path / "w.pt")


def test_missing_and_unexpected_names(tmp_path):
    file = tmp_path / "w.pt"
    torch.save(network(hidden=(5,)).state_dict(), file)
    message = refusal(network(hidden=(5, 5)), file)
    assert message.endswith("2 missing: blocks.1.linear.weight, blocks.1.linear.bias")
    torch.save(network(hidden=(5, 5, 5)).state_dict(), file)
    message = refusal(network(hidden=(5,)), file)
    assert "4 unexpected: blocks.1.linear.weight, blocks.1.linear.bias, blocks.2.linear.weight, ..." in message


def test_other_shapes(tmp_path):
    torch.save(network(hidden=(6,)).state_dict(), tmp_path / "w.pt")
    message = refusal(network(hidden=(5,)), tmp_path / "w.pt")
    assert "3 of another shape: blocks.0.linear.weight (6, 4) instead of (5, 4)" in message
