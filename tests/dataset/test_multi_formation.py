import pytest
import torch

from lit_distill.data import ClassBatches, Digits
from lit_distill.dataset import MultiFormation
from lit_distill.dataset.synthetic.multi_formation import formed, formed_within
from lit_distill.errors import InputError

GREY = torch.zeros(1, 1, 1)


@pytest.fixture(scope="module")
def data():
    data = ClassBatches(Digits(limit=200), per_class=1)
    data.setup("fit")
    return data


def made(data, **given):
    synthetic = MultiFormation(**given)
    synthetic.build(10, (1, 8, 8))
    synthetic.start(data, torch.Generator().manual_seed(0))
    return synthetic


def test_parts_of_one_colour_become_images_of_it():
    colours = torch.arange(4.0).reshape(1, 1, 1, 2, 2)
    images = colours.repeat_interleave(3, -1).repeat_interleave(3, -2)
    every = formed(images, 2, GREY)
    assert every.shape == (1, 4, 1, 6, 6)
    torch.testing.assert_close(every, torch.arange(4.0)[None, :, None, None, None].expand(1, 4, 1, 6, 6))


def test_whole_images_stay_as_they_are():
    images = torch.randn(2, 3, 1, 8, 8)
    torch.testing.assert_close(formed(images, 1, GREY), images, rtol=0, atol=0)


def test_every_image_is_cut_by_itself():
    images = torch.randn(2, 3, 1, 7, 5)
    every = formed(images, 3, GREY)
    for k in range(2):
        for i in range(3):
            torch.testing.assert_close(every[k, i::3], formed(images[k : k + 1, i : i + 1], 3, GREY)[0])


def test_padding_is_the_colour_of_its_channel():
    fill = torch.tensor([1.0, -2.0])[:, None, None]
    images = fill.expand(1, 1, 2, 5, 5)
    torch.testing.assert_close(formed(images, 2, fill), fill.expand(1, 4, 2, 5, 5))


@pytest.mark.parametrize(("n", "factor", "limit"), [(2, 2, 7), (3, 3, 30), (4, 2, 4), (1, 3, 100), (5, 3, 17)])
def test_no_more_than_the_limit(n, factor, limit):
    images = torch.randn(2, n, 1, 9, 9)
    every = formed_within(images, factor, limit, GREY)
    assert n <= every.shape[1] <= min(limit, n * factor**2)


def test_as_many_as_possible_within_no_limit():
    images = torch.randn(2, 3, 1, 9, 9)
    torch.testing.assert_close(formed_within(images, 3, 100, GREY), formed(images, 3, GREY), rtol=0, atol=0)


def test_starts_with_real_images_in_its_parts(data):
    synthetic = made(data, images_per_class=2, factor=2)
    for c in range(10):
        real = data.images_of(c)
        shrunk = torch.nn.functional.interpolate(real, size=(4, 4))
        tiles = synthetic.images[c].unfold(2, 4, 4).unfold(3, 4, 4).reshape(2, 4, 4, 4).flatten(0, 1)
        found = [(tile == shrunk[:, 0]).flatten(1).all(1).any() for tile in tiles]
        assert all(found)


@pytest.mark.parametrize(
    ("given", "count"), [({}, 8), ({"smaller": True}, 10), ({"limit": 6}, 5), ({"limit": 10}, 8), ({"factor": 3}, 18)]
)
def test_what_networks_see(data, given, count):
    synthetic = made(data, images_per_class=2, **given)
    images, targets = synthetic.decode(torch.tensor([4, 1]))
    assert images.shape == (2, count, 1, 8, 8)
    assert targets.tolist() == [[4] * count, [1] * count]
    torch.testing.assert_close(images, synthetic.whole().images[[4, 1]])
    images.sum().backward()
    assert (synthetic.images.grad[[4, 1]] != 0).all()


def test_pixels_stay_what_pictures_hold(data):
    synthetic = made(data)
    with torch.no_grad():
        synthetic.images.mul_(100)
    synthetic.project()
    (mean,), (std,) = data.mean, data.std
    pixels = synthetic.images.detach() * std + mean
    assert pixels.min() == pytest.approx(0, abs=1e-6)
    assert pixels.max() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"factor": 0}, "factor must be at least 1, not 0"),
        ({"factor": 9}, "factor must be at most the side of an image, 8, not 9"),
        ({"limit": 3, "images_per_class": 4}, "limit must be at least images_per_class, 4, not 3"),
        ({"limit": 8, "smaller": True}, "limit goes without smaller"),
        ({"images_per_class": 10}, "images_per_class must be at most [0-9]+, the images of class"),
    ],
)
def test_bad_arguments(data, given, message):
    with pytest.raises(InputError, match=message):
        made(data, **given)
