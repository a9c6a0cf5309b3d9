"""What stored answers belong to: a teacher, and images as a data module augments them."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lit_distill.data.base import ImageData
from lit_distill.data.parts import Part
from lit_distill.data.sampler import BatchKey
from lit_distill.data.self_mix import SelfMix
from lit_distill.errors import InputError

PROBES = 4
#: Libraries round pixels differently by less; another crop changes a probe by more.
TOLERANCE = 1e-3


def with_views(data: object) -> ImageData:
    """The data module, if it shows each training image in a fixed number of views.

    Raises:
        InputError: When it does not, or when its batches show something else than single images.
    """
    if not isinstance(data, ImageData):
        raise InputError(f"data: {type(data).__name__} given; stored answers need a data module of lit_distill.data")
    if data.strong_view:
        raise InputError("data.strong_view: true; answers are stored for single images, so leave it out")
    if data.mix is not None and not isinstance(data.mix, SelfMix):
        raise InputError(
            f"data.mix: {type(data.mix).__name__} mixes images with others, for which no answers are stored; accepted "
            "are SelfMix or none"
        )
    if data.views is None and data.augment:
        raise InputError("data.views: not given; stored answers need augmentation that repeats, e.g. views: 4")
    return data


def views_of(data: ImageData) -> int:
    """In how many views a data module shows each training image: one where it does not augment."""
    return data.views or 1


def facts(data: ImageData) -> dict[str, Any]:
    """What of a data module decides how its training images look.

    Args:
        data: The data module, set up to fit.
    """
    return {
        "data": type(data).__name__,
        "augment": data.augment,
        "views": views_of(data),
        "split_seed": data.split_seed if data.augment else None,  # which draws the views
    }


def probe(data: ImageData, samples: Tensor) -> list[float]:
    """Numbers that tell whether two data modules show the same images: one for a few images in two views.

    Args:
        data: The data module, set up to fit.
        samples: Positions in the full training set.
    """
    views = views_of(data)
    part = Part(data.parts["train"].images, samples[:PROBES], True, training=True, views=views)
    numbers: list[float] = []
    for view in sorted({0, views - 1}):
        x = data.prepared(part[BatchKey(list(range(len(part))), view, 0)]).double().flatten(1)
        ramp = torch.linspace(1, 2, x.shape[1], dtype=x.dtype)
        numbers += (x @ ramp / x.shape[1]).tolist()
    return numbers


def checksum(teacher: nn.Module) -> str:
    """A hash of a network's weights."""
    digest = hashlib.sha256()
    for name, value in teacher.state_dict().items():
        digest.update(name.encode())
        if isinstance(value, Tensor):
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def check(folder: Path, card: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Compare what a store was made for with what it is used for.

    Args:
        folder: The store.
        card: Its card.
        now: What must be so, by the card's names.

    Raises:
        InputError: Naming the first thing that differs.
    """
    for name, value in now.items():
        stored = card.get(name)
        if name == "probe":
            same = len(stored or ()) == len(value)
            same = same and all(abs(a - b) <= TOLERANCE for a, b in zip(stored or (), value, strict=True))
            what = "images that look otherwise (other files, transforms or sizes)"
        else:
            same, what = stored == value, f"{name} {stored}, and here it is {value}"
        if not same:
            raise InputError(f"labels: {folder} was made for {what}; use the same settings, or another folder")
