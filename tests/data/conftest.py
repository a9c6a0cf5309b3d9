"""Small folders in the layouts of the real data sets, and a module that writes down what it is given."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from PIL import Image
from torch import Tensor


class Recorder(LightningModule):
    """Keeps every batch; asks for the number of steps before the checkpoint is read, if told to."""

    def __init__(self, asks_for_steps: bool = False, fails_at: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.asks_for_steps = asks_for_steps
        self.fails_at = fails_at
        self.batches: dict[str, list[tuple[Tensor, ...]]] = {"train": [], "val": [], "test": [], "predict": []}

    def training_step(self, batch, batch_idx):
        if len(self.batches["train"]) == self.fails_at:
            raise KeyboardInterrupt
        self.batches["train"].append(batch)
        return self.weight.square()

    def validation_step(self, batch, batch_idx):
        self.batches["val"].append(batch)

    def test_step(self, batch, batch_idx):
        self.batches["test"].append(batch)

    def predict_step(self, batch, batch_idx):
        self.batches["predict"].append(batch)
        return batch[0]

    def configure_optimizers(self):
        if self.asks_for_steps:
            assert self.trainer.estimated_stepping_batches > 0
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def recorder() -> type[Recorder]:
    return Recorder


@pytest.fixture
def trainer(tmp_path: Path) -> Callable[..., Trainer]:
    def make(**kwargs) -> Trainer:
        quiet = {
            "accelerator": "cpu",
            "default_root_dir": tmp_path,
            "enable_checkpointing": False,
            "enable_model_summary": False,
            "enable_progress_bar": False,
            "logger": False,
            "max_epochs": 1,
            "num_sanity_val_steps": 0,
        }
        return Trainer(**{**quiet, **kwargs})

    return make


def idx_bytes(values: Tensor) -> bytes:
    header = bytes((0, 0, 8, values.ndim)) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    return header + values.to(torch.uint8).numpy().tobytes()


@pytest.fixture
def mnist_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes the four files, 40 training and 20 test images, and gives their folder."""

    def write(below: str = ".", packed: bool = True) -> Path:
        folder = tmp_path / "mnist" / below
        folder.mkdir(parents=True)
        generator = torch.Generator().manual_seed(0)
        for prefix, size in (("train", 40), ("t10k", 20)):
            images = torch.randint(256, (size, 28, 28), generator=generator)
            for name, values in (("images-idx3", images), ("labels-idx1", torch.arange(size) % 10)):
                content = idx_bytes(values)
                path = folder / f"{prefix}-{name}-ubyte{'.gz' if packed else ''}"
                path.write_bytes(gzip.compress(content) if packed else content)
        return tmp_path / "mnist"

    return write


@pytest.fixture
def image_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes images of random size, six a class, into ``<part>/<class>/``."""

    def write(parts: tuple[str, ...] = ("train", "val"), classes: tuple[str, ...] = ("ant", "bee")) -> Path:
        generator = torch.Generator().manual_seed(0)
        for part in parts:
            for name in classes:
                folder = tmp_path / "images" / part / name
                folder.mkdir(parents=True)
                for i in range(6):
                    height, width = torch.randint(20, 40, (2,), generator=generator).tolist()
                    pixels = torch.randint(256, (height, width, 3), generator=generator)
                    image = Image.fromarray(pixels.to(torch.uint8).numpy())
                    image.save(folder / f"{i}.{('png', 'JPEG')[i % 2]}")
        return tmp_path / "images"

    return write
