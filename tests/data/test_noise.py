import pytest
import torch

from lit_distill.data import Digits, NoiseImages
from lit_distill.errors import InputError


def batches(loader, data):
    return [data.on_after_batch_transfer(batch) for batch in loader]


def column(loader, data, index):
    return torch.cat([batch[index] for batch in batches(loader, data)])


def made(**kwargs):
    data = NoiseImages(Digits(), **{"samples": 1000, "batch_size": 100} | kwargs)
    data.setup()
    return data


def test_pixels_are_uniform_and_normalised_as_the_real_ones():
    data = made()
    x = column(data.train_dataloader(), data, 0)
    assert x.shape == (1000, 1, 8, 8)
    pixels = x * data.std[0] + data.mean[0]
    assert pixels.min().item() == pytest.approx(0, abs=1e-6)
    assert pixels.max().item() == pytest.approx(1, abs=1e-6)
    expected, error = 1 / 12**0.5, 1 / 64000**0.5
    assert pixels.mean().item() == pytest.approx(0.5, abs=3 * expected * error)
    assert pixels.std().item() == pytest.approx(expected, abs=expected * 3 * error)
    neighbours = torch.corrcoef(pixels.flatten(1).T)
    assert neighbours.fill_diagonal_(0).abs().max() < 5 / 1000**0.5
    assert (column(data.train_dataloader(), data, 1) == 0).all()


def test_validates_and_tests_on_real_images():
    data, real = made(), Digits(batch_size=100)
    real.setup()
    for index in (0, 1):
        assert torch.equal(column(data.test_dataloader(), data, index), column(real.test_dataloader(), real, index))
    everything = Digits().read("train")
    assert torch.equal(column(data.val_dataloader(), data, 1), everything.targets)


def test_the_noise_is_that_of_its_seed():
    def images(**kwargs):
        data = made(**kwargs)
        return column(data.train_dataloader(), data, 0).flatten(1).sum(1).sort().values

    torch.testing.assert_close(images(), images(seed=1))  # in another order
    assert not torch.equal(images(), images(noise_seed=1))


def test_bad_input():
    with pytest.raises(InputError, match="samples: 0 is below 1"):
        NoiseImages(Digits(), samples=0)
