import io
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from lit_distill.data import CIFAR10, CIFAR100, cifar
from lit_distill.errors import InputError

PER_FILE = 12


class Python2Pickler(pickle._Pickler):
    """Writes strings as the Python 2 that wrote the official files did."""

    def save(self, value, *args, **kwargs):
        if isinstance(value, str | bytes):
            content = value.encode("ascii") if isinstance(value, str) else value
            self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)
        else:
            super().save(value, *args, **kwargs)


def python2_dumps(value):
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def contents(data):
    """Pixels, coarse labels and labels of every file, by the name that it has in the pickled version."""
    generator = np.random.default_rng(0)
    for name in data.pickled.train + data.pickled.test:
        pixels = generator.integers(256, size=(PER_FILE, 3072), dtype=np.uint8)
        yield name, pixels, [i % 20 for i in range(PER_FILE)], [i * 5 % data.num_classes for i in range(PER_FILE)]


def write_pickled(data, root, dumps=python2_dumps):
    folder = root / data.pickled.folder
    folder.mkdir(parents=True)
    for name, pixels, coarse, labels in contents(data):
        batch = {"data": pixels, data.label_key: labels, "coarse_labels": coarse, "filenames": ["a.png"] * PER_FILE}
        (folder / name).write_bytes(dumps(batch))


def write_binary(data, root):
    folder = root / data.binary.folder
    folder.mkdir(parents=True)
    names = dict(zip(data.pickled.train + data.pickled.test, data.binary.train + data.binary.test, strict=True))
    for name, pixels, coarse, labels in contents(data):
        head = [labels] if data.label_bytes == 1 else [coarse, labels]
        records = np.concatenate([np.array(head, dtype=np.uint8).T, pixels], axis=1)
        (folder / names[name]).write_bytes(records.tobytes())


def read(data, root):
    data = data(root=str(root))
    data.prepare_data()
    data.setup()
    return data.parts["train"].images, data.parts["test"].images


@pytest.mark.parametrize("data", [CIFAR10, CIFAR100])
@pytest.mark.parametrize("write", [write_pickled, write_binary])
@pytest.mark.parametrize("inside", [True, False])
def test_both_versions_hold_the_same(data, write, inside, tmp_path):
    write(data, tmp_path)
    root = next(tmp_path.iterdir()) if inside else tmp_path
    files = list(contents(data))
    for images, part in zip(read(data, root), (files[:-1], files[-1:]), strict=True):
        pixels = np.concatenate([pixels for _, pixels, _, _ in part])
        assert torch.equal(images.x, torch.from_numpy(pixels).view(-1, 3, 32, 32))
        assert images.targets.tolist() == [label for *_, labels in part for label in labels]


@pytest.mark.parametrize("protocol", [3, 4])
def test_pickles_of_python_3_are_read(protocol, tmp_path):
    write_pickled(CIFAR10, tmp_path, lambda batch: pickle.dumps(batch, protocol=protocol))
    pixels = next(contents(CIFAR10))[1]
    assert torch.equal(read(CIFAR10, tmp_path)[0].x[:PER_FILE].flatten(1), torch.from_numpy(pixels))


def test_binary_comes_first(tmp_path):
    write_binary(CIFAR10, tmp_path)
    write_pickled(CIFAR10, tmp_path, lambda batch: b"not a pickle")
    assert len(read(CIFAR10, tmp_path)[0].targets) == 5 * PER_FILE


class Hostile:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "named"), [(os.mkdir, "posix.mkdir|nt.mkdir"), (eval, "builtins.eval"), (np.load, "numpy.load")]
)
def test_pickle_runs_nothing(function, named, tmp_path):
    marker = tmp_path / "was here"
    argument = f"__import__('os').mkdir({str(marker)!r})" if function is eval else str(marker)
    write_pickled(CIFAR10, tmp_path, lambda batch: pickle.dumps(Hostile(function, argument), protocol=4))
    with pytest.raises(InputError, match=rf"^root: .*data_batch_1 is no batch of CIFAR: .* it names ({named})$"):
        read(CIFAR10, tmp_path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda batch: b"",
        lambda batch: python2_dumps(batch)[:-20],
        lambda batch: python2_dumps({"data": batch["data"]}),
        lambda batch: python2_dumps({**batch, "data": batch["data"].astype(np.float32)}),
        lambda batch: python2_dumps({**batch, "data": np.asfortranarray(batch["data"])}),
        lambda batch: python2_dumps({**batch, "data": [1, 2, 3]}),
        lambda batch: python2_dumps({**batch, "labels": ["a"] * PER_FILE}),
        lambda batch: python2_dumps([1, 2]),
    ],
)
def test_damaged_pickles_are_named(change, tmp_path):
    write_pickled(CIFAR10, tmp_path, change)
    with pytest.raises(InputError, match=r"^root: .*data_batch_1 is no batch of CIFAR: ") as caught:
        read(CIFAR10, tmp_path)
    assert "\n" not in str(caught.value)


def test_damaged_records_are_named(tmp_path):
    write_binary(CIFAR100, tmp_path)
    path = tmp_path / CIFAR100.binary.folder / "train.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"^root: .*train.bin has 36887 bytes, not a multiple of 3074$"):
        read(CIFAR100, tmp_path)


def test_labels_of_no_class_are_refused(tmp_path):
    write_binary(CIFAR10, tmp_path)
    path = tmp_path / CIFAR10.binary.folder / "data_batch_3.bin"
    path.write_bytes(b"\x0a" + path.read_bytes()[1:])
    with pytest.raises(InputError, match=r"^root: labels from 0 to 10 in .*; accepted are 0 to 9$"):
        read(CIFAR10, tmp_path)


def test_counts_must_agree(tmp_path):
    write_pickled(CIFAR10, tmp_path, lambda batch: python2_dumps({**batch, "labels": batch["labels"][1:]}))
    with pytest.raises(InputError, match=r"^root: 60 images and 55 labels in "):
        read(CIFAR10, tmp_path)


@pytest.mark.parametrize("data", [CIFAR10, CIFAR100])
def test_missing_files_are_downloaded(data, monkeypatch, tmp_path):
    def download(url, root, filename, md5):
        official = getattr(torchvision.datasets, data.name)
        assert (url, filename, md5) == (official.url, official.filename, official.tgz_md5)
        write_pickled(data, Path(root))

    monkeypatch.setattr(cifar, "download_and_extract_archive", download)
    assert len(read(data, tmp_path / "elsewhere")[1].targets) == PER_FILE


def test_failing_download_is_one_line(monkeypatch, tmp_path):
    def download(*args, **kwargs):
        raise OSError("no\nnetwork")

    monkeypatch.setattr(cifar, "download_and_extract_archive", download)
    with pytest.raises(InputError, match=r"^root: no CIFAR10 files in .*; no download: no network$"):
        read(CIFAR10, tmp_path)


def test_reading_before_preparing_says_what_is_missing(tmp_path):
    with pytest.raises(InputError, match=r"^root: .* has no cifar-10-batches-bin or cifar-10-batches-py "):
        CIFAR10(root=str(tmp_path)).setup()
