"""MNIST and Fashion-MNIST."""

from pathlib import Path
from typing import Any, Literal

import torchvision

from lit_distill.data.idx import find_idx, read_idx
from lit_distill.data.tensor_data import TensorData, TensorImages, labelled
from lit_distill.errors import InputError

_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


class MNIST(TensorData):
    """70 000 handwritten digits of 28×28 pixels, 10 000 of them for testing.

    LeCun et al., "Gradient-Based Learning Applied to Document Recognition", Proceedings of the IEEE, 1998.

    Args:
        root: Folder with the four IDX files, plain or gzipped; torchvision's folder ``MNIST/raw`` in it will do.
            Missing files are downloaded. Default: ``data``.
        augment: Whether to shift training images by up to two pixels.
    """

    num_classes = 10
    input_shape = (1, 28, 28)
    mean = (0.1307,)
    std = (0.3081,)
    padding = 2
    flip = False
    name = "MNIST"

    def __init__(self, root: str | None = None, augment: bool = False, **kwargs: Any) -> None:
        super().__init__(augment=augment, **kwargs)
        self.root = Path(root or "data")
        self.folders = [self.root, self.root / self.name / "raw"]

    def prepare_data(self) -> None:
        """Download the files if a folder with all of them is not found."""
        if self.folder() is None:
            try:
                getattr(torchvision.datasets, self.name)(str(self.root), download=True)
            except (OSError, RuntimeError) as error:
                reason = " ".join(str(error).split())
                raise InputError(
                    f"root: the four {self.name} files are not in {self.root}; no download: {reason}"
                ) from error

    def folder(self) -> Path | None:
        """The first folder that has all four files."""
        names = [name for pair in _FILES.values() for name in pair]
        return next((folder for folder in self.folders if all(find_idx(folder, n) for n in names)), None)

    def read(self, part: Literal["train", "test"]) -> TensorImages:
        """The full training set or the test set."""
        folder = self.folder()
        paths = [folder and find_idx(folder, name) for name in _FILES[part]]
        if paths[0] is None or paths[1] is None:
            raise InputError(f"root: the four {self.name} files are not in {self.root}")
        x, targets = read_idx(paths[0], dimensions=3)[:, None], read_idx(paths[1], dimensions=1).long()
        if x.shape[1:] != self.input_shape:
            raise InputError(f"root: {paths[0]} has images of shape {tuple(x.shape[2:])}, not (28, 28)")
        return labelled(x, targets, self.num_classes, paths[1])


class FashionMNIST(MNIST):
    """70 000 photographs of clothes, in the format of MNIST and harder.

    Xiao et al., "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms", 2017,
    https://arxiv.org/abs/1708.07747. Official: ``zalandoresearch/fashion-mnist``.

    Args:
        root: Folder with the four IDX files, plain or gzipped; torchvision's folder ``FashionMNIST/raw`` in it
            will do. Missing files are downloaded. Default: ``data``, or else the folder of the Debian package
            ``dataset-fashion-mnist``.
        augment: Whether to shift training images by up to two pixels and to mirror half of them.
    """

    mean = (0.2860,)
    std = (0.3530,)
    flip = True
    name = "FashionMNIST"

    def __init__(self, root: str | None = None, augment: bool = True, **kwargs: Any) -> None:
        super().__init__(root=root, augment=augment, **kwargs)
        if root is None:
            self.folders.append(Path("/usr/share/datasets/fashion-mnist"))
