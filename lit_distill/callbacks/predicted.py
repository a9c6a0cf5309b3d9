"""What the student sees in a few test images, beside what is there."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor
from torchvision.utils import draw_bounding_boxes, make_grid, save_image

from lit_distill.callbacks.folder import run_folder
from lit_distill.callbacks.images import pixels
from lit_distill.segmentation import maps_in
from lit_distill.student_file import write_whole

#: Of classes 1, 2, ...; those of more classes begin anew.
COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#ffe119", "#f58231", "#911eb4", "#46f0f0", "#f032e6", "#bcf60c", "#fabebe")

#: Detections below this score are not drawn.
LEAST_SCORE = 0.4

#: Images are shown at least this large.
SIDE = 128


class PredictedImages(L.Callback):
    """Draws what a segmenter or detector finds in the first validation images, at the end of a fit.

    A row of ``predictions.png`` in the run's folder shows images as they are, one below it what is there, one below
    that what the student found: masks of classes laid over the image, or boxes with the number of their class. Every
    logger gets the picture too. ``fast_dev_run`` draws nothing.

    Args:
        count: How many images; 0 switches it off.
    """

    def __init__(self, count: int = 8) -> None:
        self.count = count
        self.rows: Tensor | None = None

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the images of the last validation."""
        self.rows = None

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the first batch's, and keep the picture."""
        x, target = batch
        shown = min(self.count, len(x))
        if batch_idx or not shown or not trainer.is_global_zero or trainer.sanity_checking:
            return
        found = pl_module.predict_step((x[:shown], target[:shown]), 0)
        images = pixels(x[:shown].float().cpu(), trainer)
        true = _drawn(images, target[:shown])
        self.rows = torch.stack([_enlarged(images), true, _drawn(images, found)])

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the picture of the last validation."""
        folder = run_folder(trainer)  # asks all ranks, so before any of them returns
        if self.rows is None or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        grid = make_grid(self.rows.flatten(0, 1), nrow=self.rows.shape[1], padding=2, pad_value=1.0)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "predictions.png", lambda file: save_image(grid, file, format="png"))
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("predictions", [grid])
            elif isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("predictions", grid)


def _enlarged(images: Tensor) -> Tensor:
    """Images ``(B, 3, H, W)`` of at least :data:`SIDE` pixels, by whole factors."""
    factor = max(1, -(-SIDE // images.shape[-1]))
    return images.repeat_interleave(factor, -1).repeat_interleave(factor, -2)


def _drawn(images: Tensor, what: Any) -> Tensor:
    """Images with classes of pixels ``(B, H, W)``, logits of them, or boxes laid over them."""
    if isinstance(what, list):
        factor = max(1, -(-SIDE // images.shape[-1]))
        return torch.stack([_boxed(x, said, factor) for x, said in zip(_enlarged(images), what, strict=True)])
    classes = what.cpu() if not what.is_floating_point() else maps_in(what).argmax(1).cpu()
    palette = torch.tensor([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in COLOURS]) / 255
    colours = palette[(classes.clamp(min=1) - 1) % len(COLOURS)].movedim(-1, 1)
    return _enlarged(torch.where((classes > 0)[:, None], 0.25 * images + 0.75 * colours, images))


def _boxed(image: Tensor, said: dict[str, Tensor], factor: int) -> Tensor:
    """One enlarged image with the boxes of what was said about it."""
    said = {name: value.float().cpu() for name, value in said.items()}
    keep = said["scores"] >= LEAST_SCORE if "scores" in said else torch.ones_like(said["labels"], dtype=torch.bool)
    labels = said["labels"][keep].long().tolist()
    if not labels:
        return image
    # right and bottom are edges, and the drawing wants the last pixels within
    boxes = factor * said["boxes"][keep] - torch.tensor([0.0, 0.0, 1.0, 1.0])
    colours = [COLOURS[(label - 1) % len(COLOURS)] for label in labels]
    return draw_bounding_boxes(image, boxes, [str(label) for label in labels], colours, width=2)
