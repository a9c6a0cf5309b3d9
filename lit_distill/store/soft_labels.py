"""A teacher's stored answers about augmented training images."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lit_distill.data.base import ImageData
from lit_distill.errors import InputError
from lit_distill.store.agreement import check, checksum, facts, probe
from lit_distill.store.files import mapped, read_card, read_shard
from lit_distill.store.topk import Kept

CARD, SAMPLES = "card.json", "samples.safetensors"


class SoftLabels:
    """What a teacher said about each view of each training image: a folder that :func:`make_labels` wrote.

    Attributes:
        folder: The folder.
        card: What it holds: ``teacher`` (its class), ``weights`` (a hash), ``topk``, ``dtype`` and what was shown.
        samples: Positions in the full training set, rising, int64 ``(N,)``.

    Args:
        folder: The folder.

    Raises:
        InputError: When it is no such folder, or views are missing.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        self.card = read_card(self.folder)
        missing = [view for view in range(self.card["views"]) if not view_file(self.folder, view).is_file()]
        if missing:
            raise InputError(
                f"labels: {self.folder} lacks {len(missing)} of {self.card['views']} views; `lit-distill labels` "
                "finishes it"
            )
        self.samples: Tensor = mapped(self.folder / SAMPLES)["samples"]
        self._views = [read_shard(view_file(self.folder, view)) for view in range(self.card["views"])]

    def __deepcopy__(self, memo: dict[int, Any]) -> "SoftLabels":
        return self  # as copies of the module that holds it need not copy what is on disk

    def check(self, data: ImageData, teacher: nn.Module | None = None) -> None:
        """Make sure that these are the answers to what a data module shows.

        Args:
            data: The data module, set up to fit.
            teacher: The teacher that should have given them. Default: any.

        Raises:
            InputError: Naming the first thing that differs.
        """
        now = facts(data)
        if teacher is not None:
            now["weights"] = checksum(teacher)
        check(self.folder, self.card, now)
        unknown = ~torch.isin(data.parts["train"].positions, self.samples)
        if unknown.any():
            raise InputError(
                f"labels: {self.folder} lacks {int(unknown.sum())} of the {len(unknown)} training samples; use the "
                "val_fraction, split_seed and limit it was made with, or another folder"
            )
        check(self.folder, self.card, {"probe": probe(data, self.samples)})

    def rows(self, index: Tensor, view: int) -> Kept:
        """The answers about some images, float32 on the CPU.

        Args:
            index: Positions in the full training set, int64 ``(B,)``.
            view: In which view.
        """
        row = torch.searchsorted(self.samples, index.cpu())
        values, indices, rest = (part[row] for part in self._views[view])
        return Kept(values.float(), indices, rest.float())


def view_file(folder: Path, view: int) -> Path:
    """Where the answers about one view lie."""
    return folder / f"view_{view:04d}.safetensors"


def complete(folder: Path) -> bool:
    """Whether a folder holds all answers that its card promises."""
    if not (folder / CARD).is_file() or not (folder / SAMPLES).is_file():
        return False
    return all(view_file(folder, view).is_file() for view in range(read_card(folder)["views"]))
