import pytest
import torch

from lit_distill.data.augment import random_crop, random_flip


@pytest.fixture
def images():
    return torch.randint(256, (50, 3, 9, 7), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_crop_is_a_window_of_the_padded_image(images):
    generator = torch.Generator().manual_seed(1)
    row, column = torch.rand(2, len(images), generator=generator)
    cropped = random_crop(images, 2, row, column)
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    for i, (image, top, left) in enumerate(zip(padded, (row * 5).long(), (column * 5).long(), strict=True)):
        assert torch.equal(cropped[i], image[:, top : top + 9, left : left + 7])


def test_crop_reaches_every_place_and_no_other():
    row, column = torch.linspace(0, 1 - 2**-24, 50), torch.linspace(0, 1 - 2**-24, 50).flip(0)
    dot = torch.zeros(50, 1, 5, 5)
    dot[:, :, 2, 2] = 1
    cropped = random_crop(dot, 2, row, column)
    assert torch.equal(cropped.sum((2, 3)), torch.ones(50, 1))
    assert set(cropped[:, 0].sum(2).argmax(1).tolist()) == set(range(5))
    assert set(cropped[:, 0].sum(1).argmax(1).tolist()) == set(range(5))


def test_crop_from_the_middle_changes_nothing(images):
    middle = torch.full((len(images),), 0.5)
    assert torch.equal(random_crop(images, 3, middle, middle), images)


def test_flip_mirrors_those_below_one_half(images):
    chance = torch.linspace(0, 0.99, len(images))
    flipped = random_flip(images, chance)
    assert torch.equal(flipped[:25], images[:25].flip(-1))
    assert torch.equal(flipped[26:], images[26:])
