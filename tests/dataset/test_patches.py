import pytest
import torch
from torch import nn

from lit_distill.data import ClassBatches, Digits
from lit_distill.dataset import Patches
from lit_distill.dataset.crops import cropped
from lit_distill.dataset.synthetic.patches import best_crops, mosaics, padded
from lit_distill.errors import InputError


class Brightness(nn.Module):
    """Is the surer of every class but the last the brighter an image is."""

    def forward(self, x):
        bright = x.flatten(1).mean(1, keepdim=True)
        return torch.cat([bright.expand(-1, 9), torch.zeros_like(bright)], 1)


@pytest.fixture(scope="module")
def data():
    data = ClassBatches(Digits(limit=200), per_class=1)
    data.setup("fit")
    return data


def made(data, **kwargs):
    synthetic = Patches(Brightness(), **kwargs)
    synthetic.build(10, (1, 8, 8))
    synthetic.start(data, torch.Generator().manual_seed(0))
    return synthetic


def test_takes_the_best_crop_of_the_best_images():
    crops = torch.arange(6.0).reshape(3, 2, 1, 1, 1)
    scores = torch.tensor([[0.3, 0.4], [0.9, 0.1], [0.2, 0.8]])
    chosen, order = best_crops(crops, scores, 2)
    assert order.tolist() == [1, 2]
    assert chosen.flatten().tolist() == [3.0, 4.0]


def test_best_tiles_are_at_the_top_left():
    tiles = torch.arange(8.0).reshape(8, 1, 1, 1)
    images = mosaics(tiles, 2, (2, 2))
    assert images[:, 0].tolist() == [[[0.0, 2.0], [4.0, 6.0]], [[1.0, 3.0], [5.0, 7.0]]]


def test_first_tiles_are_larger_where_the_size_is_no_multiple():
    images = mosaics(torch.arange(4.0).reshape(4, 1, 1, 1), 2, (3, 3))
    assert images[0, 0].tolist() == [[0, 0, 1], [0, 0, 1], [2, 2, 3]]


def test_padding_puts_crops_in_the_middle():
    wide = padded(torch.ones(1, 1, 2, 3), (5, 6))[0, 0]
    assert wide.sum() == 6
    assert wide.nonzero()[0].tolist() == [1, 1]


def test_teacher_is_obeyed(data, monkeypatch):
    """With crops that are whole images, the brightest images of a class are taken; of the last class the darkest."""
    monkeypatch.setattr("lit_distill.dataset.synthetic.patches.cropped", lambda image, box, size: image)
    synthetic = made(data, images_per_class=2, crops=1)
    for c in range(10):
        real = data.images_of(c)
        order = real.flatten(1).sum(1).argsort(descending=c < 9, stable=True)
        assert torch.equal(synthetic.images[c], real[order[:2]])


def test_crops_are_of_real_images(data, monkeypatch):
    boxes = []
    monkeypatch.setattr(
        "lit_distill.dataset.synthetic.patches.cropped", lambda *args: boxes.append(args) or cropped(*args)
    )
    synthetic = made(data, images_per_class=1, factor=2, candidates=4, crops=3)
    assert len(boxes) == 10 * 4 * 3
    assert {size for _, _, size in boxes} == {(4, 4)}
    tiles = torch.cat([cropped(*args) for args in boxes])
    for image in synthetic.images.flatten(0, 1):
        for tile in (image[:, :4, :4], image[:, :4, 4:], image[:, 4:, :4], image[:, 4:, 4:]):
            assert (tiles == tile).flatten(1).all(1).any()


def test_the_seed_says_everything(data):
    one, again = (made(data, crops=2).images for _ in range(2))
    assert torch.equal(one, again)


def test_nothing_to_learn(data):
    synthetic = made(data, images_per_class=3)
    assert synthetic.parameter_groups() == []
    assert set(synthetic.state_dict()) == {"images"}
    given = synthetic.decode(torch.tensor([4, 2]))
    assert given.targets.tolist() == [[4] * 3, [2] * 3]
    assert given.images.shape == (2, 3, 1, 8, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"factor": 0}, "factor must be at least 1, not 0"),
        ({"crops": 0}, "crops must be at least 1, not 0"),
        ({"factor": 2, "candidates": 3}, "candidates must be at least the number of tiles, 4, not 3"),
        ({"factor": 9}, "factor must be at most the side of an image, 8, not 9"),
        ({"images_per_class": 5, "factor": 2}, "images_per_class must be at most 4"),
    ],
)
def test_wrong_arguments(arguments, message):
    data = ClassBatches(Digits(limit=40), per_class=1)
    data.setup("fit")
    with pytest.raises(InputError, match=message):
        made(data, **arguments)
