"""Asking a teacher about every view of every training image, once."""

from dataclasses import replace
from pathlib import Path

import torch
from filelock import FileLock
from lightning.fabric.utilities import move_data_to_device
from rich.console import Console
from rich.progress import track
from torch import nn

from lit_distill.core.classification import example_forward
from lit_distill.data.base import ImageData
from lit_distill.data.loader import ResumableLoader
from lit_distill.data.parts import Part
from lit_distill.data.sampler import SequentialBatchSampler
from lit_distill.errors import InputError
from lit_distill.losses.checks import require
from lit_distill.store.agreement import check, checksum, facts, probe, with_views
from lit_distill.store.files import DTYPES, Precision, mapped, read_card, write_card, write_shard, write_tensors
from lit_distill.store.soft_labels import CARD, SAMPLES, SoftLabels, view_file
from lit_distill.store.topk import Kept, keep


def make_labels(
    folder: str | Path,
    data: ImageData,
    teacher: nn.Module,
    topk: int,
    dtype: Precision = "float16",
    device: torch.device | str = "cpu",
) -> SoftLabels:
    """Store what a teacher says about every view of every training image; views that are there already stay.

    Of several processes that ask for the same folder one works, the others wait. A view's file appears whole or not at
    all, so after an interruption the next call makes the views that are missing.

    Args:
        folder: Where the answers go.
        data: The data module.
        teacher: The network. It is put into eval mode, and on ``device``.
        topk: How many of the likeliest classes to keep.
        dtype: Of the log-probabilities; ``float16`` keeps three digits of them.
        device: Where the teacher answers.

    Raises:
        InputError: When the folder holds answers of another teacher or to other images, a view of an image is not the
            same whenever it is shown, or an argument is outside its range.
    """
    folder = Path(folder).expanduser()
    require(dtype in DTYPES, "dtype", repr(dtype), f"one of {', '.join(DTYPES)}")
    with_views(data).setup("fit")
    classes = example_forward(teacher, data.input_shape, "teacher").shape[-1]
    require(1 <= topk <= classes, "topk", topk, f"from 1 to the number of classes, {classes}")
    samples = data.parts["train"].positions.sort().values
    card = facts(data) | {
        "teacher": f"{type(teacher).__module__}.{type(teacher).__qualname__}",
        "weights": checksum(teacher),
        "samples": len(samples),
        "classes": classes,
        "topk": topk,
        "dtype": dtype,
    }
    looks = {"probe": probe(data, samples)}
    part = replace(data.parts["train"], positions=samples, training=True, views=card["views"])
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if (folder / CARD).exists():
            check(folder, read_card(folder), card)
            if not torch.equal(mapped(folder / SAMPLES)["samples"], samples):
                raise InputError(f"labels: {folder} was made for other training samples; use another folder")
            check(folder, read_card(folder), looks)
        else:
            folder.mkdir(exist_ok=True)
            write_tensors(folder / SAMPLES, {"samples": samples})
            write_card(folder, card | looks)
        for view in range(card["views"]):
            if not (file := view_file(folder, view)).exists():
                rows = answers(data, part, teacher, view, topk, torch.device(device))
                write_shard(file, rows, classes, dtype)
    return SoftLabels(folder)


@torch.no_grad()
def answers(data: ImageData, part: Part, teacher: nn.Module, view: int, topk: int, device: torch.device) -> Kept:
    """What a teacher says about one view of all images of a part, in their order, on the CPU.

    Args:
        data: The data module, which augments.
        part: The images.
        teacher: The network.
        view: Which view.
        topk: How many of the likeliest classes to keep.
        device: Where the teacher answers.
    """
    teacher = teacher.to(device).eval()
    kind = next((parameter.dtype for parameter in teacher.parameters()), torch.float32)
    sampler = SequentialBatchSampler(len(part), data.batch_size)
    sampler.set_epoch(view)
    batches = ResumableLoader(part, sampler, data.num_workers)
    rows = []
    text = f"labels, view {view + 1} of {part.views}"
    for batch in track(batches, text, total=len(batches), console=Console(stderr=True)):
        x = data.prepared(move_data_to_device(batch, device))
        kept = keep(teacher(x.to(kind)), topk)
        rows.append(Kept(*(value.cpu() for value in kept)))
    return Kept(*(torch.cat(column) for column in zip(*rows, strict=True)))
