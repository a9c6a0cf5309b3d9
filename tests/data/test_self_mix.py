"""A rectangle of an image, pasted into the same image."""

import random

import pytest
import torch

from lit_distill.data import Digits, SelfMix
from lit_distill.errors import InputError


def numbered(batch=3, height=9, width=13):
    """Every pixel has a number of its own."""
    return torch.arange(batch * height * width).view(batch, 1, height, width).float()


@pytest.mark.parametrize("seed", range(50))
def test_one_rectangle_of_the_same_image_moves(seed):
    x = numbered()
    mixed, label = SelfMix()(x, torch.tensor([0, 1, 1]), 2, random.Random(seed))
    assert label.tolist() == [[1, 0], [0, 1], [0, 1]]
    offset = mixed - x
    (rows, columns) = (offset[0, 0] != 0).any(1), (offset[0, 0] != 0).any(0)
    assert torch.equal(offset[0, 0] != 0, rows[:, None] & columns)
    for side in (rows, columns):
        assert side.long().diff().abs().sum() <= 2  # one run
    assert len(offset[offset != 0].unique()) <= 1  # one shift, so of this image
    assert torch.equal(offset[0], offset[1])


def test_its_area_is_the_share_that_was_drawn():
    """Uniform for alpha = 1: a half on average, up to what rounding to pixels does."""
    areas = []
    for seed in range(2000):
        side = (1 - random.Random(seed).betavariate(1.0, 1.0)) ** 0.5
        mixed, own = SelfMix().mix(x := numbered(1, 40, 40), x, random.Random(seed))
        assert own == 1.0
        changed = (mixed != x).sum().item()
        assert changed in (0, round(40 * side) ** 2)
        areas.append(side**2)
    assert abs(sum(areas) / 2000 - 0.5) < 5 * (1 / 12 / 2000) ** 0.5


def test_the_images_it_is_given_stay_as_they_are():
    x = numbered()
    before = x.clone()
    SelfMix()(x, torch.tensor([0, 1, 1]), 2, random.Random(0))
    assert torch.equal(x, before)


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan")])
def test_alpha_is_checked(alpha):
    with pytest.raises(InputError, match=r"alpha: .* is not a parameter of a Beta distribution"):
        SelfMix(alpha)


def test_in_training_no_class_changes(recorder, trainer):
    module = recorder()
    trainer(limit_val_batches=0).fit(module, Digits(limit=40, mix=SelfMix(), index=True))
    data = Digits(limit=40)
    data.setup("fit")
    targets = data.parts["train"].images.targets
    for _, label, index in module.batches["train"]:
        assert label.shape == (len(index), 10)
        assert torch.equal(label, torch.nn.functional.one_hot(targets[index], 10).float())
