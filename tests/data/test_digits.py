import torch
from sklearn.datasets import load_digits

from lit_distill.data import Digits


def sets(**kwargs):
    data = Digits(**kwargs)
    data.setup()
    return data.parts


def test_pixels_are_scaled_without_loss():
    parts = sets()
    images = torch.cat([parts[name].images.x for name in ("train", "test")])
    levels = images.double() * 16 / 255
    torch.testing.assert_close(levels, levels.round(), atol=0.05, rtol=0)
    assert images.max() == 255
    assert sorted(levels.round().sum((1, 2, 3)).tolist()) == sorted(load_digits().data.sum(1).tolist())


def test_test_set_is_a_fixed_stratified_fifth():
    parts = sets()
    assert (len(parts["train"].images.targets), len(parts["test"])) == (1438, 359)
    share = torch.from_numpy(load_digits().target).bincount() / 5
    assert (parts["test"].images.targets.bincount() - share).abs().max() <= 1
    assert torch.equal(parts["test"].images.x, sets(split_seed=1, seed=1)["test"].images.x)


def test_mean_and_std_are_those_of_the_training_set():
    x = sets()["train"].images.x.double() / 255
    assert round(x.mean().item(), 4) == Digits.mean[0]
    assert round(x.std(correction=0).item(), 4) == Digits.std[0]


def test_augmentation_is_off_and_never_mirrors():
    assert not Digits().augment
    assert not Digits.flip
