"""The IDX format of MNIST and its kin."""

import gzip
import zlib
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from lit_distill.errors import InputError

_UNSIGNED_BYTE = 8


def find_idx(folder: Path, name: str) -> Path | None:
    """The file of this name in a folder, plain or else with the ending ``.gz``."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def read_idx(path: Path, dimensions: int) -> Tensor:
    """Read a file of unsigned bytes.

    Two zero bytes, the code 8 for unsigned bytes and the number of dimensions; then each size as four bytes, the
    highest first; then the values. The format is described at http://yann.lecun.com/exdb/mnist.

    Args:
        path: The file; one that ends in ``.gz`` is unpacked on the way.
        dimensions: How many dimensions it must have.

    Returns:
        uint8, in the shape that the file names.

    Raises:
        InputError: When the file is no such file, is damaged, or ends early or late.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"root: {path} cannot be read: {error}") from error
    magic = bytes((0, 0, _UNSIGNED_BYTE, dimensions))
    if content[:4] != magic:
        raise InputError(f"root: {path} begins with {content[:4].hex(' ')}, an IDX file with {magic.hex(' ')}")
    header = 4 + 4 * dimensions
    sizes = [int.from_bytes(content[start : start + 4], "big") for start in range(4, header, 4)]
    if len(content) != header + prod(sizes):
        raise InputError(f"root: {path} has {len(content)} bytes, for {sizes} it needs {header + prod(sizes)}")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)[header:].view(sizes)
