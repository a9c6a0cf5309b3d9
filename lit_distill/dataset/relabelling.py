"""Asking a teacher about crops and mixtures of a distilled set, once."""

import copy
from pathlib import Path
from typing import Literal, get_args

import torch
from filelock import FileLock
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lit_distill.core.classification import example_forward
from lit_distill.dataset.artifact import TENSORS, DistilledDataset
from lit_distill.dataset.soft_views import FOLDER, StoredViews, Views, facts
from lit_distill.errors import InputError
from lit_distill.losses.checks import require
from lit_distill.store.agreement import check, checksum
from lit_distill.store.files import DTYPES, Precision, read_card, write_card, write_shard, write_tensors
from lit_distill.store.soft_labels import CARD, SAMPLES, view_file
from lit_distill.store.topk import Kept, keep

#: Which statistics a teacher's BatchNorm layers use: those they remember, or those of the batch.
Statistics = Literal["running", "batch"]


@torch.no_grad()
def relabel(
    folder: str | Path,
    teacher: nn.Module,
    count: int = 300,
    views: Views | None = None,
    topk: int = 10,
    dtype: Precision = "float16",
    statistics: Statistics = "running",
    batch_size: int = 100,
    device: torch.device | str = "cpu",
) -> StoredViews:
    """Store what a teacher says about views of a distilled set, in the folder ``labels`` of its own.

    Networks can then be trained on them with batches of any size: ``lit-distill evaluate`` does. Views that are there
    already stay, so an interrupted call is finished by the same one. Of several processes one works.

    Args:
        folder: The distilled set.
        teacher: The network. It stays as it is.
        count: How many views of each image there will be: an epoch shows one.
        views: How they are made. Default: crops and CutMix as SRe2L has them.
        topk: How many of the likeliest classes to keep; all where there are fewer.
        dtype: Of the log-probabilities.
        statistics: ``running``, or ``batch`` as CV-DD has it (Cui et al. 2025, https://arxiv.org/abs/2501.07575): the
            teacher's BatchNorm layers normalise by the batch, as those of a network in training do.
        batch_size: Images that the teacher sees at once, which with ``batch`` decides what it says.
        device: Where the teacher answers.

    Raises:
        InputError: When there is no distilled set or another one than the labels were made for, the teacher knows other
            classes, or an argument is outside its range.
    """
    folder, views = Path(folder), views or Views()
    for name, value in (("count", count), ("topk", topk), ("batch_size", batch_size)):
        require(value >= 1, name, value, "at least 1")
    require(dtype in DTYPES, "dtype", repr(dtype), f"one of {', '.join(DTYPES)}")
    require(statistics in get_args(Statistics), "statistics", repr(statistics), "running or batch")
    distilled = DistilledDataset.load(folder)
    images = distilled.images.to(device)
    weights = checksum(teacher)
    teacher = asked(teacher, statistics).to(device)
    classes = example_forward(teacher, tuple(images.shape[1:]), "teacher").shape[-1]
    if classes != distilled.num_classes:
        raise InputError(f"teacher knows {classes} classes, and the set has {distilled.num_classes}")
    topk = min(topk, classes)
    card = facts(views, count, distilled.card["files"][TENSORS]) | {
        "teacher": f"{type(teacher).__module__}.{type(teacher).__qualname__}",
        "weights": weights,
        "samples": len(images),
        "classes": classes,
        "topk": topk,
        "dtype": dtype,
        "statistics": statistics,
        "batch_size": batch_size if statistics == "batch" else None,
    }
    labels = folder / FOLDER
    with FileLock(f"{labels}.lock"):
        if (labels / CARD).exists():
            check(labels, read_card(labels), card)
        else:
            labels.mkdir(exist_ok=True)
            write_tensors(labels / SAMPLES, {"samples": torch.arange(len(images))})
            write_card(labels, card)
        for view in track(range(count), "views", console=Console(stderr=True)):
            if not (file := view_file(labels, view)).exists():
                write_shard(file, _answers(teacher, images, views, view, topk, batch_size), classes, dtype)
    return StoredViews(labels)


def asked(teacher: nn.Module, statistics: Statistics) -> nn.Module:
    """A copy of a teacher as it is asked.

    Args:
        teacher: The network.
        statistics: What its BatchNorm layers normalise by.
    """
    teacher = copy.deepcopy(teacher).eval()
    if statistics == "batch":
        for layer in teacher.modules():
            if isinstance(layer, _BatchNorm):  # without statistics of its own it takes the batch's in eval mode too
                layer.track_running_stats, layer.running_mean, layer.running_var = False, None, None
    return teacher


def _answers(teacher: nn.Module, images: Tensor, views: Views, view: int, topk: int, batch_size: int) -> Kept:
    parts = [keep(teacher(views(images, rows, view)), topk) for rows in torch.arange(len(images)).split(batch_size)]
    return Kept(*(torch.cat(column).cpu() for column in zip(*parts, strict=True)))
