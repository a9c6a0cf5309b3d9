"""What a segmenter or a detector predicts, in files that other tools read."""

import json
from functools import partial
from pathlib import Path

from PIL import Image
from torch import Tensor

from lit_distill.errors import InputError
from lit_distill.student_file import write_whole


def write_masks(batches: list[Tensor], folder: Path) -> None:
    """Write the class of every pixel as one picture an image, and say where.

    Args:
        batches: Logits of pixels, ``(B, C, H, W)``.
        folder: Where the pictures go, grey PNGs whose values are classes: ``000000.png`` is the first sample's.

    Raises:
        InputError: When there are more classes than a byte has values.
    """
    if batches[0].shape[1] > 256:
        raise InputError(f"student: answers {batches[0].shape[1]} classes; pictures hold at most 256")
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for batch in batches:
        for classes in batch.argmax(1).byte().cpu():
            picture = Image.fromarray(classes.numpy())
            write_whole(folder / f"{count:06d}.png", partial(picture.save, format="png"))
            count += 1
    print(f"Predictions: {folder} ({count} pictures, whose values are classes)")


def write_boxes(batches: list[list[dict[str, Tensor]]], file: Path) -> None:
    """Write what was found as COCO's JSON of results, and say where.

    Each entry has ``image_id`` (the number of the sample), ``category_id``, ``bbox`` (left, top, width and height) and
    ``score``.

    Args:
        batches: What was found in each image: ``boxes``, ``labels`` and ``scores``.
        file: Where they go.
    """
    images = [said for batch in batches for said in batch]
    entries = [
        {"image_id": number, "category_id": label, "bbox": [left, top, right - left, bottom - top], "score": score}
        for number, said in enumerate(images)
        for (left, top, right, bottom), label, score in zip(
            said["boxes"].float().tolist(), said["labels"].tolist(), said["scores"].float().tolist(), strict=True
        )
    ]
    write_whole(file, lambda whole: whole.write_text(json.dumps(entries), encoding="utf-8"))
    print(f"Predictions: {file} ({len(entries)} objects in {len(images)} images)")
