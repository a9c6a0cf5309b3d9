import lightning as L
import pytest
import torch
from PIL import Image

from lit_distill.callbacks import ExampleImages
from lit_distill.callbacks.images import pixels
from lit_distill.data import Digits
from lit_distill.models import MLP
from lit_distill.supervised import Supervised


def trainer(folder, callback):
    return L.Trainer(
        accelerator="cpu", max_steps=1, default_root_dir=folder, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, limit_val_batches=0, callbacks=[callback],
    )  # fmt: skip


def module():
    return Supervised(student=MLP(input_shape=(1, 8, 8), num_classes=10), optimizer=torch.optim.Adam)


def test_a_grid_of_the_first_batch_is_written(tmp_path):
    trainer(tmp_path, ExampleImages(count=16)).fit(module(), datamodule=Digits(batch_size=32))
    with Image.open(tmp_path / "examples.png") as image:
        assert image.size == (8 * 9 + 1, 2 * 9 + 1)  # 16 digits of 8x8 pixels, a pixel between them
        assert image.getextrema()[0] == (0, 255)


def test_zero_switches_it_off(tmp_path):
    trainer(tmp_path, ExampleImages(count=0)).fit(module(), datamodule=Digits(batch_size=32))
    assert not list(tmp_path.iterdir())


def test_normalisation_is_undone(tmp_path):
    raw = torch.rand(5, 1, 8, 8)
    data = Digits()
    run = L.Trainer(logger=False, accelerator="cpu", enable_checkpointing=False)
    run.datamodule = data
    normalised = (raw - data.mean[0]) / data.std[0]
    assert torch.allclose(pixels(normalised, run), raw, atol=1e-6)
    run.datamodule = None
    stretched = pixels(normalised, run)
    assert stretched.amin() == 0
    assert stretched.amax() == pytest.approx(1)
