import math

import pytest
import torch

from lit_distill.data import ShapeBoxes, ShapeMasks
from lit_distill.data.shapes import CLASSES, LEAST_PIXELS, ShapeImages, _covered, boxes_of
from lit_distill.errors import InputError


def images(kind, count=64, size=48, seed=0, part="train"):
    return ShapeImages(count, size, seed, part, kind)


def test_an_image_depends_on_the_seed_the_part_and_its_position_alone():
    x, masks = images("masks").take([1, 5, 7])
    alone, mask = images("masks", count=6).take([5])
    assert torch.equal(alone[0], x[1])
    assert torch.equal(mask[0], masks[1])
    for other in (images("masks", seed=1), images("masks", part="val"), images("masks", part="test")):
        assert not torch.equal(other.take([5]).x[0], x[1])


def test_boxes_are_those_of_the_masks():
    x, masks = images("masks").take(list(range(64)))
    same, targets = images("boxes").take(list(range(64)))
    assert torch.equal(x, same)
    singles = 0
    for mask, target in zip(masks, targets, strict=True):
        for (left, top, right, bottom), label in zip(target["boxes"].long().tolist(), target["labels"], strict=True):
            inside = mask[top:bottom, left:right] == label
            # an object reaches all four edges of its box
            assert inside[0].any()
            assert inside[-1].any()
            assert inside[:, 0].any()
            assert inside[:, -1].any()
        if len(target["labels"]) == 1 and (mask > 0).sum() == (mask == target["labels"]).sum():
            singles += 1
            rows, columns = (mask > 0).nonzero().unbind(1)
            edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert target["boxes"][0].tolist() == [int(edge) for edge in edges]
    assert singles > 5


def test_shapes_cover_the_areas_that_they_should():
    size, numbers = 400, torch.full((1, 4, 16), 0.5)
    numbers[..., 4] = 0.3  # no edge along a row of pixels
    areas = _covered(numbers, torch.tensor([[1, 2, 3, 4]]), size).sum((2, 3))[0] / (size * 0.17) ** 2
    expected = [math.pi * 0.9**2, 1.6**2, 3 * math.sqrt(3) * 0.55**2, 2 * 0.64 * 2 - 0.64**2]
    torch.testing.assert_close(areas, torch.tensor(expected), rtol=0.01, atol=0)


def test_every_class_is_drawn_as_often():
    _, targets = images("boxes", count=1000, size=32).take(list(range(1000)))
    counts = torch.cat([target["labels"] for target in targets]).bincount(minlength=len(CLASSES))
    assert counts[0] == 0
    assert counts[1:].min() > 0.8 * counts[1:].max()


def test_an_object_that_is_hardly_seen_has_no_box():
    owner = torch.zeros(8, 8, dtype=torch.long)
    owner[0, : LEAST_PIXELS - 5] = 1
    owner[1] = owner[2] = 2
    assert boxes_of(owner, torch.tensor([4, 3]))["labels"].tolist() == [3]
    empty = boxes_of(torch.zeros_like(owner), torch.tensor([4, 3]))
    assert empty["boxes"].shape == (0, 4)
    assert empty["labels"].dtype == torch.int64


def prepared(data, part):
    data.setup()
    return [data.on_after_batch_transfer(batch) for batch in getattr(data, f"{part}_dataloader")()]


def test_batches_of_masks_are_normalised():
    data = ShapeMasks(size=32, train_images=20, val_images=4, batch_size=8)
    batches = prepared(data, "train")
    assert [x.shape for x, _ in batches] == [(8, 3, 32, 32), (8, 3, 32, 32), (4, 3, 32, 32)]
    x, target = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert target.shape == (20, 32, 32)
    assert 0 <= target.min() <= target.max() < data.num_classes
    assert x.mean().abs() < 0.3
    assert 0.8 < x.std() < 1.3


def test_batches_of_boxes_are_as_torchvisions_detectors_take_them():
    data = ShapeBoxes(size=32, test_images=10, batch_size=8)
    (x, target), (_, rest) = prepared(data, "test")
    assert x.amin() >= 0
    assert x.amax() <= 1
    assert len(target) == len(x) == 8
    assert len(rest) == 2
    for image in target:
        left, top, right, bottom = image["boxes"].unbind(1)
        assert ((left >= 0) & (left < right) & (right <= 32)).all()
        assert ((top >= 0) & (top < bottom) & (bottom <= 32)).all()
        assert len(image["labels"]) == len(image["boxes"])


def test_seed_shuffles_and_shapes_seed_draws():
    def batches(**seeds):
        data = ShapeMasks(size=16, train_images=20, batch_size=20, **seeds)
        data.setup("fit")
        return next(iter(data.train_dataloader())).x

    def in_order(x):
        return torch.stack(sorted(x, key=lambda image: image.flatten().tolist()))

    assert not torch.equal(batches(seed=0), batches(seed=1))
    assert torch.equal(in_order(batches(seed=0)), in_order(batches(seed=1)))
    assert not torch.equal(in_order(batches(seed=0)), in_order(batches(seed=0, shapes_seed=1)))


@pytest.mark.parametrize(
    ("name", "least"), [("size", 16), ("train_images", 1), ("val_images", 1), ("test_images", 1), ("batch_size", 1)]
)
def test_too_small_a_number_is_refused(name, least):
    with pytest.raises(InputError, match=f"{name}: {least - 1} is below {least}"):
        ShapeMasks(**{name: least - 1})
