import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from lit_distill.data import ClassBatches, Digits
from lit_distill.data.parts import RawBatch
from lit_distill.dataset.artifact import CARD, GRID, TENSORS, WHITENING, DistilledDataset, MatchingTransform
from lit_distill.dataset.step import Labelled
from lit_distill.dataset.whitening import Whitening
from lit_distill.errors import InputError

from .small import CLASSES, chosen, saved, soft


def test_what_is_saved_is_loaded(tmp_path):
    images = chosen()
    folder = saved(tmp_path / "a/set", images, step_size=0.03, recipe="mtt")
    loaded = DistilledDataset.load(folder)
    assert torch.equal(loaded.images, images.images.flatten(0, 1))
    assert torch.equal(loaded.targets, images.targets.flatten())
    assert torch.equal(loaded.labelled.images, images.images)
    assert (len(loaded), loaded.num_classes) == (20, CLASSES)
    assert (loaded.card["labels"], loaded.card["step_size"], loaded.card["recipe"]) == ("classes", 0.03, "mtt")
    assert loaded.card["about"]["data"] == "Digits"
    assert loaded.augment.strategy == "color_crop_scale_rotate"
    assert sorted(path.name for path in folder.iterdir()) == sorted([CARD, GRID, TENSORS])
    with Image.open(folder / GRID) as picture:
        assert picture.size == (134, 662)  # ten rows of two images of 64 pixels, with lines of two


def test_it_is_an_ordinary_dataset(tmp_path):
    loaded = DistilledDataset.load(saved(tmp_path))
    x, y = next(iter(DataLoader(loaded, batch_size=6)))
    assert x.shape == (6, 1, 8, 8)
    assert y.tolist() == [0, 0, 1, 1, 2, 2]


def test_logits_become_probabilities_and_values_stay(tmp_path):
    labels = soft()
    loaded = DistilledDataset.load(saved(tmp_path, labels))
    torch.testing.assert_close(loaded.targets, labels.targets.flatten(0, 1).softmax(-1))
    loaded = DistilledDataset.load(saved(tmp_path, labels, soft="values"))
    assert torch.equal(loaded.targets, labels.targets.flatten(0, 1))


def test_the_transform_makes_of_test_images_what_networks_see(tmp_path):
    data = Digits()
    data.setup("test")
    part = data.parts["test"]
    raw = part.images.take(part.positions[:5], 0, False)
    seen = data.prepared(RawBatch(raw, None, None, epoch=0, number=0, training=False))
    transform = DistilledDataset.load(saved(tmp_path)).transform
    torch.testing.assert_close(transform(raw), seen)
    torch.testing.assert_close(transform(raw / 255), seen)
    picture = Image.fromarray(np.asarray(raw[3, 0]))
    torch.testing.assert_close(transform(picture), seen[3])


def test_whitening_travels_with_the_set(tmp_path):
    source = ClassBatches(Digits())
    source.setup("fit")
    real = torch.cat([source.images_of(c) for c in range(CLASSES)])
    whitening = Whitening.of(real)
    torch.testing.assert_close(whitening.undone(whitening(real)), real, rtol=1e-4, atol=1e-4)
    images = chosen()
    folder = saved(tmp_path, Labelled(whitening(images.images), images.targets), whitening=whitening)
    loaded = DistilledDataset.load(folder)
    assert loaded.card["range"]["least"] == pytest.approx(0, abs=1e-4)
    assert loaded.card["range"]["largest"] == pytest.approx(1, abs=1e-4)
    x = images.images.flatten(0, 1)
    pixels = x * torch.tensor(Digits.std) + torch.tensor(Digits.mean)
    torch.testing.assert_close(loaded.transform(pixels.clamp(0, 1)), loaded.images, rtol=1e-4, atol=1e-4)
    Whitening.of(real[:100]).save(folder / WHITENING)
    with pytest.raises(InputError, match=r"whitening.safetensors is damaged or of another set"):
        DistilledDataset.load(folder)


def test_white_pixels_are_uncorrelated():
    x = torch.randn(500, 2, 3, 3, generator=torch.Generator().manual_seed(0)).cumsum(-1)
    covariance = Whitening.of(x, epsilon=0.0)(x).flatten(1).T.cov()
    torch.testing.assert_close(covariance, torch.eye(18), rtol=0, atol=1e-3)


def damaged(folder, how):
    if how == "no card":
        (folder / CARD).unlink()
    elif how == "no JSON":
        (folder / CARD).write_text("{")
    elif how == "another card":
        (folder / CARD).write_text('{"format": 1}')
    elif how == "newer":
        (folder / CARD).write_text((folder / CARD).read_text().replace('"format": 1', '"format": 99'))
    elif how == "short card":
        card = json.loads((folder / CARD).read_text())
        del card["input_shape"]
        (folder / CARD).write_text(json.dumps(card))
    elif how == "no tensors":
        (folder / TENSORS).unlink()
    elif how == "cut tensors":
        (folder / TENSORS).write_bytes((folder / TENSORS).read_bytes()[:-7])
    elif how == "other tensors":
        other = saved(folder / "other", chosen(seed=1))
        shutil.copy(other / TENSORS, folder / TENSORS)
    elif how == "wrong count":
        (folder / CARD).write_text(
            (folder / CARD).read_text().replace('"images_per_class": 2', '"images_per_class": 3')
        )


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no card", r"holds no distilled dataset \(card.json is missing\)"),
        ("no JSON", "card.json cannot be read"),
        ("another card", "card.json is no card of a distilled dataset"),
        ("newer", "has format 99; accepted by lit_distill"),
        ("short card", "card.json lacks or misspells 'input_shape'"),
        ("no tensors", "distilled.safetensors is missing; the card needs it"),
        ("cut tensors", "distilled.safetensors is damaged or of another set"),
        ("other tensors", "distilled.safetensors is damaged or of another set"),
        ("wrong count", "are not as many or as large as its card says"),
    ],
)
def test_damaged_folders(tmp_path, how, message):
    damaged(saved(tmp_path), how)
    with pytest.raises(InputError, match=message) as raised:
        DistilledDataset.load(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step_size": float("nan")}, "step_size must be finite, not nan"),
        ({"mean": (0.1, 0.2, 0.3)}, "mean and std must be of 1 channels, not 3 and 1"),
        ({"images": Labelled(torch.full((10, 1, 1, 8, 8), torch.nan), torch.arange(10)[:, None])}, "must be finite"),
    ],
)
def test_what_cannot_be_saved(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        saved(tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.randn(1, 4, 4), "accepted are uint8 and numbers in"),
        (torch.zeros(3, 4, 4), r"image must have shape \(..., 1, H, W\), not \(3, 4, 4\)"),
        (torch.zeros(1, 4, 4, dtype=torch.int64), "image has torch.int64 from 0 to 0"),
    ],
)
def test_images_that_no_network_would_understand(image, message):
    with pytest.raises(InputError, match=message):
        MatchingTransform([0.5], [0.5])(image)


def test_whitening_of_other_images(tmp_path):
    whitening = Whitening.of(torch.randn(5, 1, 4, 4))
    with pytest.raises(InputError, match=r"whitening: it is for images of 16 numbers, not for \(1, 8, 8\)"):
        whitening(torch.zeros(2, 1, 8, 8))
    for content in (None, b"nothing"):
        if content is not None:
            (tmp_path / "w.safetensors").write_bytes(content)
        with pytest.raises(InputError, match="whitening: "):
            Whitening.load(tmp_path / "w.safetensors")
    for images, epsilon in ((torch.zeros(1, 1, 2, 2), 0.1), (torch.zeros(3, 1, 2, 2), -1.0)):
        with pytest.raises(InputError):
            Whitening.of(images, epsilon)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("images_per_class", [1, 3])
def test_any_number_of_channels_and_classes(tmp_path, channels, images_per_class):
    shape = (4, images_per_class, channels, 6, 9)
    images = Labelled(torch.randn(shape), torch.arange(4)[:, None].expand(-1, images_per_class))
    stats = {"mean": [0.5] * channels, "std": [0.2] * channels}
    loaded = DistilledDataset.load(saved(tmp_path, images, num_classes=4, **stats))
    assert loaded.images.shape == (4 * images_per_class, channels, 6, 9)
