"""Tiny ImageNet, whose validation labels are in a file."""

from pathlib import Path
from typing import Any

from lit_distill.data.image_folder import FileImages, ImageFolder
from lit_distill.errors import InputError


class TinyImageNet(ImageFolder):
    """110 000 images of 64×64 pixels in 200 classes of ImageNet, as http://cs231n.stanford.edu hands them out.

    The official validation images are the test set, for the official test images have no labels; validation is
    held out from the training images.

    Le and Yang, "Tiny ImageNet Visual Recognition Challenge", Stanford CS231N, 2015.

    Args:
        root: The folder ``tiny-imagenet-200``, or the one that it is in.
        image_size: Height and width of the images that networks see.
        crop_pct: Share of the resized image's side that the crop in the centre keeps, in (0, 1].
        min_scale: Smallest share of a training image's area that the random crop keeps, in (0, 1].

    Raises:
        InputError: When the folder has no ``train`` with folders of classes, or timm refuses an argument.
    """

    def __init__(
        self, root: str, image_size: int = 64, crop_pct: float = 1.0, min_scale: float = 0.25, **kwargs: Any
    ) -> None:
        below = Path(root) / "tiny-imagenet-200"
        super().__init__(
            root=str(below if below.is_dir() else root),
            image_size=image_size,
            crop_pct=crop_pct,
            min_scale=min_scale,
            **kwargs,
        )

    def read_val(self) -> None:
        """None: validation is held out."""

    def read_test(self) -> FileImages:
        """The official validation images, with the labels of ``val_annotations.txt``; or ``val/<class>``."""
        annotations = self.root / "val" / "val_annotations.txt"
        if not annotations.is_file():
            return self.read("val")
        labels = {name: label for label, name in enumerate(self.classes)}
        paths, targets = [], []
        for number, line in enumerate(annotations.read_text().splitlines(), start=1):
            name, _, rest = line.partition("\t")
            label = labels.get(rest.partition("\t")[0])
            if label is None:
                raise InputError(f"root: line {number} of {annotations} names no class of {self.root / 'train'}")
            paths.append(f"val/images/{name}")
            targets.append(label)
        return self.images(paths, targets)
