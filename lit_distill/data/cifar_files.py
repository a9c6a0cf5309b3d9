"""The files of CIFAR-10 and CIFAR-100, binary or pickled."""

import pickle
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_distill.errors import InputError

_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32


def read_binary(path: Path, label_bytes: int) -> tuple[Tensor, Tensor]:
    """Read a file of records of fixed length: labels, then the red, green and blue pixels row by row.

    Args:
        path: The file.
        label_bytes: Labels before each image, of which the last is the class: 1 for CIFAR-10, 2 for CIFAR-100.

    Returns:
        Images, uint8 ``(N, 3, 32, 32)``, and classes, int64 ``(N,)``.

    Raises:
        InputError: When the file cannot be read or is not made of such records.
    """
    content, record = bytearray(_content(path)), label_bytes + _PIXELS
    if not content or len(content) % record:
        raise InputError(f"root: {path} has {len(content)} bytes, not a multiple of {record}")
    records = torch.frombuffer(content, dtype=torch.uint8).view(-1, record)
    return records[:, label_bytes:].reshape(-1, *_SHAPE), records[:, label_bytes - 1].long()


def read_pickle(path: Path, labels: str) -> tuple[Tensor, Tensor]:
    """Read a pickled batch, of which nothing is run: only containers, strings and numbers are rebuilt.

    Args:
        path: The file.
        labels: Key of the classes: ``labels`` for CIFAR-10, ``fine_labels`` for CIFAR-100.

    Returns:
        Images, uint8 ``(N, 3, 32, 32)``, and classes, int64 ``(N,)``.

    Raises:
        InputError: When the file cannot be read, is damaged, or names a function or class besides NumPy's arrays.
    """
    content = _content(path)
    try:
        # Python 2 wrote the official files; latin1 maps the bytes of its strings to characters one to one
        batch = _ArraysOnly(BytesIO(content), encoding="latin1").load()
        return batch["data"].tensor().view(-1, *_SHAPE), torch.tensor(batch[labels]).long()
    except Exception as error:  # a damaged pickle fails in any way there is
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"root: {path} is no batch of CIFAR: {reason}") from error


class _Array:
    """Stands in for NumPy's array, its type and the function that makes it: a hostile file reaches none of them."""

    def __init__(self, code: Any = None, *_: Any) -> None:
        self.code = code

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def tensor(self) -> Tensor:
        _, shape, kind, column_major, values = self.state
        if kind.code != "u1" or column_major:
            raise ValueError(f"pixels are of type {kind.code}, not unsigned bytes in row-major order")
        content = values if isinstance(values, bytes) else values.encode("latin1")
        return torch.frombuffer(bytearray(content), dtype=torch.uint8).view(shape)


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        known = {
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return _Array


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"root: {path} cannot be read: {error.strerror}") from error
