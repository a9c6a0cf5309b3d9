import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from lit_distill.data import GlobalBatchSampler, ImageFolder
from lit_distill.errors import InputError

SMALL = {"image_size": 16, "batch_size": 5}
STRONG = {"auto_augment": "rand-m9-mstd0.5-inc1", "random_erasing": 0.5}


def loader_of(root, fitting=True, processes=None, **kwargs):
    """The training loader, as a fitting trainer gets it."""
    data = ImageFolder(root=str(root), **{**SMALL, **kwargs})
    data.setup("fit")
    return data.loader(replace(data.parts["train"], training=fitting), GlobalBatchSampler)


def images_by_position(batches):
    return {int(p): x for batch in batches for p, x in zip(batch.position, batch.x, strict=True)}


def test_classes_are_counted_at_once(image_folder):
    data = ImageFolder(root=str(image_folder(classes=("bee", "ant", "cat"))), image_size=24)
    assert data.classes == ["ant", "bee", "cat"]
    assert (data.num_classes, data.input_shape) == (3, (3, 24, 24))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_transforms_depend_on_seed_epoch_and_sample_alone(image_folder, num_workers):
    root = image_folder()
    one = loader_of(root, **STRONG)
    first = images_by_position(one)
    other = images_by_position(loader_of(root, batch_size=3, num_workers=num_workers, **STRONG))
    assert first.keys() == other.keys()
    assert all(torch.equal(first[position], other[position]) for position in first)
    for loader, epoch in ((one, 1), (loader_of(root, seed=1, **STRONG), 0)):
        loader.sampler.set_epoch(epoch)
        changed = images_by_position(loader)
        assert not any(torch.equal(first[position], changed[position]) for position in first)


def test_without_augmentation_training_images_are_like_all_others(image_folder):
    root = image_folder()
    plain = images_by_position(loader_of(root, augment=False))
    evaluated = images_by_position(loader_of(root, fitting=False))
    augmented = images_by_position(loader_of(root))
    for position, x in plain.items():
        assert torch.equal(x, evaluated[position])
        assert not torch.equal(x, augmented[position])


def test_global_generators_are_given_back(image_folder):
    loader = loader_of(image_folder(), **STRONG)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    for _ in loader:
        pass
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before


def test_images_are_normalised(image_folder):
    root = image_folder(("train",), ("ant",))
    for path in (root / "train" / "ant").iterdir():
        path.unlink()
    Image.new("L", (30, 20), 255).save(root / "train" / "ant" / "white.png")
    Image.new("RGBA", (20, 30), (255, 255, 255, 255)).save(root / "train" / "ant" / "also.png")
    data = ImageFolder(root=str(root), mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0), image_size=8)
    x = data.read_train().take(torch.arange(2), epoch=0, training=False)
    expected = torch.tensor([1.0, 3.0, 0.5])[:, None, None].expand(2, 3, 8, 8)
    torch.testing.assert_close(x, expected)


@pytest.mark.parametrize("has_test", [True, False])
def test_val_is_for_testing_unless_there_is_test(image_folder, has_test):
    parts = ("train", "val", "test") if has_test else ("train", "val")
    data = ImageFolder(root=str(image_folder(parts)), **SMALL)
    data.setup()
    folders = {
        name: {part.images.paths[position].decode().split("/")[0] for position in part.positions}
        for name, part in data.parts.items()
    }
    if has_test:
        assert folders == {"train": {"train"}, "val": {"val"}, "test": {"test"}}
        assert len(data.parts["train"]) == 12
        assert not data.parts["val"].of_training_set
    else:
        assert folders == {"train": {"train"}, "val": {"train"}, "test": {"val"}}
        assert len(data.parts["train"]) + len(data.parts["val"]) == 12


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_damaged_image_is_named(image_folder, content, num_workers):
    root = image_folder()
    path = root / "train" / "bee" / "3.JPEG"
    path.write_bytes(path.read_bytes()[:-400] if content is None else content)
    loader = loader_of(root, val_fraction=0.01, num_workers=num_workers)
    with pytest.raises(InputError, match=rf"^root: {path} cannot be read as an image: ") as caught:
        list(loader)
    assert "\n" not in str(caught.value)


def test_missing_folders_are_named(image_folder, tmp_path):
    with pytest.raises(InputError, match=r"^root: .*nowhere/train cannot be read: No such file"):
        ImageFolder(root=str(tmp_path / "nowhere"))
    (tmp_path / "empty" / "train").mkdir(parents=True)
    with pytest.raises(InputError, match=r"^root: .*empty/train has no folders, one for each class$"):
        ImageFolder(root=str(tmp_path / "empty"))
    root = image_folder(("train",))
    with pytest.raises(InputError, match=r"^root: .*val cannot be read: No such file"):
        ImageFolder(root=str(root)).setup("test")


def test_classes_must_fit(image_folder):
    root = image_folder()
    (root / "val" / "wasp").mkdir()
    with pytest.raises(InputError, match=r"^root: .*val/wasp is no class of .*train$"):
        ImageFolder(root=str(root)).setup("test")
    (root / "train" / "wasp").mkdir()
    with pytest.raises(InputError, match=r"^root: .*train/wasp has no images; "):
        ImageFolder(root=str(root)).setup("fit")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"crop_pct": 0.0}, r"^crop_pct: 0.0 is not in \(0, 1\]$"),
        ({"min_scale": 1.5}, r"^min_scale: 1.5 is not in \(0, 1\]$"),
        ({"random_erasing": -0.1}, r"^random_erasing: -0.1 is not in \[0, 1\]$"),
        ({"auto_augment": "nonsense"}, r"^auto_augment: nonsense is no policy of timm: "),
        ({"image_size": 0}, r"^image_size: 0 is below 1$"),
    ],
)
def test_arguments_are_checked(image_folder, argument, message):
    with pytest.raises(InputError, match=message):
        ImageFolder(root=str(image_folder()), **argument)
