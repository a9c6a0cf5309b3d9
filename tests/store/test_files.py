"""Cards and shards: whole or not there, and an error in one line."""

import json
import os

import pytest
import torch

from lit_distill.errors import InputError
from lit_distill.store import files, keep
from lit_distill.store.files import mapped, read_card, read_shard, write_card, write_shard, write_tensors


def test_a_card_comes_back(tmp_path):
    write_card(tmp_path / "new", {"views": 4, "probe": [0.5]})
    card = read_card(tmp_path / "new")
    assert card["views"] == 4
    assert card["probe"] == [0.5]
    assert card["format"] == files.FORMAT
    assert os.listdir(tmp_path / "new") == ["card.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "holds no stored answers"),
        ("{", "cannot be read"),
        ("[]", "is no card"),
        ("{}", "is no card"),
        (json.dumps({"format": files.FORMAT + 1}), "has format"),
    ],
)
def test_no_card(tmp_path, text, message):
    if text is not None:
        (tmp_path / "card.json").write_text(text)
    with pytest.raises(InputError, match=f"labels: .*{message}") as error:
        read_card(tmp_path)
    assert "\n" not in str(error.value)


def test_a_shard_is_mapped_and_not_read(tmp_path):
    file = tmp_path / "shard"
    write_shard(file, keep(torch.randn(300_000, 10), 10), 10, "float32")
    before = resident()
    rows = read_shard(file)
    assert resident() - before < file.stat().st_size / 4
    assert rows.values[123_456].exp().sum() == pytest.approx(1.0, abs=1e-5)


def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_what_fails_leaves_what_was_there(tmp_path, monkeypatch):
    write_tensors(tmp_path / "file", {"x": torch.ones(1)})

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(files, "save_file", full)
    with pytest.raises(OSError, match="no space left"):
        write_tensors(tmp_path / "file", {"x": torch.zeros(1)})
    assert os.listdir(tmp_path) == ["file"]
    assert mapped(tmp_path / "file")["x"] == 1


@pytest.mark.parametrize("content", [None, b"", b"x" * 100])
def test_a_damaged_file(tmp_path, content):
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read, it may be damaged") as error:
        mapped(tmp_path / "file")
    assert "\n" not in str(error.value)


def test_another_kind_of_file(tmp_path):
    write_tensors(tmp_path / "file", {"weight": torch.zeros(1)})
    with pytest.raises(InputError, match="holds weight; accepted is a shard"):
        read_shard(tmp_path / "file")
