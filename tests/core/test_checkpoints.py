import tempfile

import pytest
import torch
from lightning.fabric.plugins import TorchCheckpointIO

from lit_distill.core.checkpoints import WholeFiles


class Unpicklable:
    def __reduce__(self):
        raise RuntimeError("half-way")


def test_round_trip_into_a_new_folder(tmp_path):
    path = tmp_path / "a" / "b.ckpt"
    WholeFiles().save_checkpoint({"x": torch.arange(3)}, path)
    assert torch.equal(WholeFiles().load_checkpoint(path, weights_only=True)["x"], torch.arange(3))
    assert [file.name for file in path.parent.iterdir()] == ["b.ckpt"]


def test_a_failed_save_leaves_the_previous_file(tmp_path):
    path = tmp_path / "last.ckpt"
    WholeFiles().save_checkpoint({"step": 1}, path)
    with pytest.raises(RuntimeError, match="half-way"):
        WholeFiles().save_checkpoint({"step": 2, "x": Unpicklable()}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_what_a_killed_save_left_is_replaced(tmp_path):
    (tmp_path / ".last.ckpt.partial").write_bytes(b"half")
    WholeFiles().save_checkpoint({"step": 1}, tmp_path / "last.ckpt")
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_the_folder_of_temporary_files_which_may_be_another_disk_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    WholeFiles().save_checkpoint({"step": 1}, tmp_path / "last.ckpt")
    with pytest.raises(FileNotFoundError):  # why this class exists
        TorchCheckpointIO().save_checkpoint({"step": 2}, tmp_path / "last.ckpt")
    assert torch.load(tmp_path / "last.ckpt", weights_only=True) == {"step": 1}


def test_remote_paths_are_left_to_lightning():
    WholeFiles().save_checkpoint({"step": 1}, "memory://last.ckpt")
    assert WholeFiles().load_checkpoint("memory://last.ckpt", weights_only=True) == {"step": 1}
