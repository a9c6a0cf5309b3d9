import gzip
from pathlib import Path

import pytest
import torch
import torchvision

from lit_distill.data import MNIST, FashionMNIST
from lit_distill.errors import InputError

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def train_images(root, data=MNIST):
    data = data(root=str(root))
    data.prepare_data()
    data.setup()
    return data.parts["train"].images


@pytest.mark.parametrize("data", [MNIST, FashionMNIST])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("torchvision_layout", [True, False])
def test_reads_packed_and_plain_files_here_and_where_torchvision_has_them(
    mnist_folder, packed, torchvision_layout, data
):
    below = f"{data.name}/raw" if torchvision_layout else "."
    images = train_images(mnist_folder(below, packed), data)
    expected = torch.randint(256, (40, 28, 28), generator=torch.Generator().manual_seed(0))
    assert torch.equal(images.x[:, 0], expected.to(torch.uint8))
    assert torch.equal(images.targets, torch.arange(40) % 10)


def test_reads_what_torchvision_reads(mnist_folder):
    root = mnist_folder("MNIST/raw", packed=False)
    theirs = torchvision.datasets.MNIST(str(root))
    ours = train_images(root)
    assert torch.equal(ours.x[:, 0], theirs.data)
    assert torch.equal(ours.targets, theirs.targets)


def damage(root, name, change):
    path = root / f"{name}.gz"
    path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes()))))


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (IMAGES, lambda b: b[:-1], r"has 31375 bytes, for \[40, 28, 28\] it needs 31376"),
        (IMAGES, lambda b: b + b"0", r"has 31377 bytes"),
        (IMAGES, lambda b: b[:9], r"has 9 bytes"),
        (IMAGES, lambda b: b"", r"begins with "),
        (IMAGES, lambda b: b"\0\0\x0d" + b[3:], r"begins with 00 00 0d 03, an IDX file with 00 00 08 03"),
        (LABELS, lambda b: b"\0\0\x08\x03" + b[4:], r"begins with 00 00 08 03, an IDX file with 00 00 08 01"),
        (LABELS, lambda b: b[:4] + bytes((0, 0, 0, 39)) + b[8:-1], r"40 images and 39 labels"),
        (LABELS, lambda b: b[:-1] + b"\x0a", r"labels from 0 to 10 .* accepted are 0 to 9"),
        (IMAGES, lambda b: b[:8] + bytes((0, 0, 0, 56, 0, 0, 0, 14)) + b[16:], r"shape \(56, 14\), not \(28, 28\)"),
    ],
)
def test_damaged_files_are_named(mnist_folder, name, change, message):
    root = mnist_folder()
    damage(root, name, change)
    with pytest.raises(InputError, match=rf"^root: .*{message}") as caught:
        train_images(root)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


@pytest.mark.parametrize("keep", [0, 10, 1000])
def test_broken_archives_are_named(mnist_folder, keep):
    path = mnist_folder() / f"{IMAGES}.gz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=rf"^root: .*{IMAGES}.gz "):
        train_images(path.parent)


def test_missing_files_are_downloaded(mnist_folder, monkeypatch, tmp_path):
    source = mnist_folder("MNIST/raw")

    def download(root, download):
        assert download
        (Path(root) / "MNIST").mkdir(parents=True)
        (source / "MNIST/raw").rename(Path(root) / "MNIST/raw")

    monkeypatch.setattr(torchvision.datasets, "MNIST", download)
    assert len(train_images(tmp_path / "elsewhere").targets) == 40


def test_failing_download_is_one_line(monkeypatch, tmp_path):
    def download(root, download):
        raise RuntimeError("Error downloading x:\nTried y, got:\nno network")

    monkeypatch.setattr(torchvision.datasets, "MNIST", download)
    with pytest.raises(InputError, match=r"^root: the four MNIST files are not in .* Tried y, got: no network$"):
        train_images(tmp_path)


def test_reading_before_preparing_says_what_is_missing(tmp_path):
    with pytest.raises(InputError, match=r"^root: the four FashionMNIST files are not in "):
        FashionMNIST(root=str(tmp_path)).setup()


@pytest.mark.fashion_mnist
@pytest.mark.skipif(not DEBIAN.is_dir(), reason="the Debian package dataset-fashion-mnist is not installed")
def test_fashion_mnist_of_debian(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    data = FashionMNIST()
    data.prepare_data()
    data.setup()
    train, test = data.parts["train"].images, data.parts["test"].images
    assert train.x.shape == (60_000, 1, 28, 28)
    assert test.x.shape == (10_000, 1, 28, 28)
    assert torch.equal(train.targets.bincount(), torch.full((10,), 6000))
    assert torch.equal(data.parts["val"].images.targets[data.parts["val"].positions].bincount(), torch.full((10,), 600))
    x = train.x.double() / 255
    assert round(x.mean().item(), 4) == data.mean[0]
    assert round(x.std(correction=0).item(), 4) == data.std[0]
