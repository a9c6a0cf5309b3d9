"""CIFAR-10 and CIFAR-100."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torchvision
from torchvision.datasets.utils import download_and_extract_archive

from lit_distill.data.cifar_files import read_binary, read_pickle
from lit_distill.data.tensor_data import TensorData, TensorImages, labelled
from lit_distill.errors import InputError


class Layout(NamedTuple):
    """Where one version of the data keeps what.

    Attributes:
        folder: Name of the folder.
        train: Files of the training set.
        test: Files of the test set.
    """

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]


class CIFAR10(TensorData):
    """60 000 colour photographs of 32×32 pixels in 10 classes, 10 000 of them for testing.

    Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009,
    https://www.cs.toronto.edu/~kriz/cifar.html.

    Args:
        root: Folder with ``cifar-10-batches-bin`` or ``cifar-10-batches-py``, or that folder itself. Missing
            files are downloaded. Default: ``data``.
        augment: Whether to shift training images by up to four pixels and to mirror half of them.
    """

    num_classes = 10
    input_shape = (3, 32, 32)
    mean = (0.4914, 0.4822, 0.4465)
    std = (0.2470, 0.2435, 0.2616)
    padding = 4
    flip = True
    name = "CIFAR10"
    binary = Layout("cifar-10-batches-bin", tuple(f"data_batch_{i}.bin" for i in range(1, 6)), ("test_batch.bin",))
    pickled = Layout("cifar-10-batches-py", tuple(f"data_batch_{i}" for i in range(1, 6)), ("test_batch",))
    label_bytes = 1
    label_key = "labels"

    def __init__(self, root: str | None = None, augment: bool = True, **kwargs: Any) -> None:
        super().__init__(augment=augment, **kwargs)
        self.root = Path(root or "data")

    def prepare_data(self) -> None:
        """Download the files if neither version of them is there."""
        if self.folder(self.binary) is None and self.folder(self.pickled) is None:
            official = getattr(torchvision.datasets, self.name)
            try:
                download_and_extract_archive(
                    official.url, str(self.root), filename=official.filename, md5=official.tgz_md5
                )
            except (OSError, RuntimeError) as error:
                reason = " ".join(str(error).split())
                raise InputError(f"root: no {self.name} files in {self.root}; no download: {reason}") from error

    def folder(self, layout: Layout) -> Path | None:
        """The folder that has all files of a layout."""
        return next(
            (
                folder
                for folder in (self.root / layout.folder, self.root)
                if all((folder / name).is_file() for name in layout.train + layout.test)
            ),
            None,
        )

    def read(self, part: Literal["train", "test"]) -> TensorImages:
        """The full training set or the test set."""
        if (folder := self.folder(self.binary)) is not None:
            files = getattr(self.binary, part)
            batches = [read_binary(folder / name, self.label_bytes) for name in files]
        elif (folder := self.folder(self.pickled)) is not None:
            files = getattr(self.pickled, part)
            batches = [read_pickle(folder / name, self.label_key) for name in files]
        else:
            raise InputError(f"root: {self.root} has no {self.binary.folder} or {self.pickled.folder} with all files")
        x, targets = (torch.cat(tensors) for tensors in zip(*batches, strict=True))
        return labelled(x, targets, self.num_classes, folder)


class CIFAR100(CIFAR10):
    """60 000 colour photographs of 32×32 pixels in 100 classes, 10 000 of them for testing.

    Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009,
    https://www.cs.toronto.edu/~kriz/cifar.html.

    Args:
        root: Folder with ``cifar-100-binary`` or ``cifar-100-python``, or that folder itself. Missing files are
            downloaded. Default: ``data``.
        augment: Whether to shift training images by up to four pixels and to mirror half of them.
    """

    num_classes = 100
    mean = (0.5071, 0.4865, 0.4409)
    std = (0.2673, 0.2564, 0.2762)
    name = "CIFAR100"
    binary = Layout("cifar-100-binary", ("train.bin",), ("test.bin",))
    pickled = Layout("cifar-100-python", ("train",), ("test",))
    label_bytes = 2
    label_key = "fine_labels"
