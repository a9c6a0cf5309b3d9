import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import StrategyRegistry
from torch import nn

from lit_distill.core import strategies
from lit_distill.core.strategies import FSDP2Strategy, previous, register, replace_folder, units, unsharded


@pytest.fixture
def small_units(monkeypatch):
    monkeypatch.setattr(strategies, "UNIT", 20)


def test_the_trainer_knows_it_by_name():
    register()  # once more does no harm
    assert "fsdp2" in StrategyRegistry.available_strategies()
    trainer = L.Trainer(strategy="fsdp2", accelerator="cpu", devices=2, logger=False, enable_checkpointing=False)
    assert type(trainer.strategy) is FSDP2Strategy


def test_units_are_large_items_of_lists():
    network = nn.Module()
    network.stem = nn.Linear(4, 4)
    network.blocks = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1), nn.ReLU())
    network.named = nn.ModuleDict({"large": nn.Linear(5, 5)})
    assert units(network) == []  # none has a million parameters
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strategies, "UNIT", 20)
        assert set(units(network)) == {network.blocks[0], network.named["large"]}


def test_inner_units_come_first_and_do_not_count_for_the_outer(small_units):
    class Block(nn.Sequential):
        def __init__(self):
            super().__init__()
            self.around, self.inner = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4))

    inner, block = nn.Linear(4, 4), Block()
    nothing_left = nn.Sequential(inner, nn.ReLU())
    found = units(nn.Sequential(nothing_left, nn.ModuleList([block])))
    assert set(found) == {inner, block.around, block.inner[0]}
    block.scale = nn.Parameter(torch.ones(20))
    found = units(nn.Sequential(nothing_left, nn.ModuleList([block])))
    assert found.index(block.inner[0]) < found.index(block)
    assert nothing_left not in found


def test_modules_that_share_a_parameter_with_others_are_no_units(small_units):
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    network[2].weight = network[0].weight
    assert units(network) == [network[1]]
    inside = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))])
    inside[0][1].weight = inside[0][0].weight
    assert units(inside) == [inside[0]]  # the block that holds both


def test_containers_without_a_forward_are_no_units(small_units):
    network = nn.ModuleList([nn.ModuleList([nn.Linear(4, 4)]), nn.ModuleDict({"a": nn.Linear(4, 4)})])
    assert set(units(network)) == {network[0][0], network[1]["a"]}


def test_unsharded_parameters_that_train_are_named():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False))
    assert unsharded(network) == ["0.weight", "0.bias"]


def write(folder, text):
    folder.mkdir()
    (folder / "shard").write_text(text)
    return folder


def test_a_folder_takes_the_place_of_another(tmp_path):
    path = write(tmp_path / "last.ckpt", "old")
    replace_folder(write(tmp_path / "new", "new"), path)
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
    assert (path / "shard").read_text() == "new"


def test_a_folder_takes_the_place_of_a_file(tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save({}, path)
    replace_folder(write(tmp_path / "new", "new"), path)
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
    assert path.is_dir()


@pytest.mark.parametrize("after", [0, 1, 2, 3, 4])
def test_whenever_it_ends_one_of_the_two_is_whole(tmp_path, monkeypatch, after):
    """Ended before each of its calls that change the disk, and then done again by the next save."""
    path = write(tmp_path / "last.ckpt", "old")
    write(previous(path), "oldest")  # from a removal that was killed
    calls = iter(range(after))

    def counted(function):
        def call(*args, **kwargs):
            if next(calls, None) is None:
                raise KeyboardInterrupt
            return function(*args, **kwargs)

        return call

    new = write(tmp_path / "new", "new")
    with monkeypatch.context() as patch:
        patch.setattr(strategies.shutil, "rmtree", counted(strategies.shutil.rmtree))
        patch.setattr(type(path), "rename", counted(type(path).rename))
        try:
            replace_folder(new, path)
        except KeyboardInterrupt:
            assert after < 4
        else:
            assert after == 4
    stands = path if path.exists() else previous(path)
    assert (stands / "shard").read_text() == ("old" if after < 3 else "new")
    if after < 3:
        assert (new / "shard").read_text() == "new"
        replace_folder(new, path)
    assert (path / "shard").read_text() == "new"
