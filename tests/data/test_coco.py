import json

import pytest
import torch
from PIL import Image

from lit_distill.data import CocoBoxes, CocoMasks, ShapeBoxes
from lit_distill.data.shapes import CLASSES, ShapeImages
from lit_distill.errors import InputError

SIDE = 32


def rectangle(left, top, width, height):
    right, bottom = left + width - 1, top + height - 1  # polygons go through the middle of pixels
    return [[left, top, right, top, right, bottom, left, bottom]]


def write(root, folder, count, annotations, size=(SIDE, SIDE)):
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / folder).mkdir(exist_ok=True)
    for number in range(count):
        Image.new("RGB", size, (number, 0, 255)).save(root / folder / f"{number}.png")
    said = {
        "images": [{"id": 100 + number, "file_name": f"{number}.png"} for number in range(count)],
        # ids leave gaps, as COCO's do
        "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
        "annotations": annotations,
    }
    (root / "annotations" / f"instances_{folder}.json").write_text(json.dumps(said))


def annotation(image, category, box, **more):
    outline = rectangle(*box)
    said = {"image_id": 100 + image, "category_id": category, "bbox": box, "segmentation": outline}
    return said | {"area": box[2] * box[3], "iscrowd": 0} | more


@pytest.fixture
def root(tmp_path):
    runs = [2 * SIDE, 3 * SIDE, SIDE * SIDE - 5 * SIDE]  # columns 2, 3 and 4
    crowd = annotation(0, 7, [2, 0, 3, SIDE], iscrowd=1, segmentation={"counts": runs, "size": [SIDE, SIDE]})
    large, small = annotation(0, 3, [8, 8, 16, 12]), annotation(0, 7, [10, 10, 4, 6])
    write(tmp_path, "val2017", 2, [small, large, crowd])
    write(tmp_path, "train2017", 10, [annotation(i, 3, [4, 4, 8, 8]) for i in range(10)])
    return tmp_path


def first(data):
    data.setup()
    return data.on_after_batch_transfer(next(iter(data.test_dataloader())))


def test_masks_have_the_smaller_object_on_top_and_crowds_below_zero(root):
    x, target = first(CocoMasks(str(root), image_size=SIDE))
    assert x.shape == (2, 3, SIDE, SIDE)
    expected = torch.zeros(SIDE, SIDE, dtype=torch.long)
    expected[:, 2:5] = -1
    expected[8:20, 8:24] = 1  # the dog's id comes first
    expected[10:16, 10:14] = 2
    assert torch.equal(target[0], expected)
    assert (target[1] == 0).all()


def test_boxes_are_corners_without_crowds(root):
    data = CocoBoxes(str(root), image_size=SIDE)
    x, target = first(data)
    assert data.num_classes == 3
    assert target[0]["boxes"].tolist() == [[10, 10, 14, 16], [8, 8, 24, 20]]
    assert target[0]["labels"].tolist() == [2, 1]
    assert target[1]["boxes"].shape == (0, 4)
    torch.testing.assert_close(x[1, :, 0, 0], torch.tensor([1 / 255, 0, 1]))


def test_images_and_boxes_are_resized_together(root):
    write(root, "val2017", 1, [annotation(0, 3, [8, 8, 16, 12])], size=(64, 32))
    _, target = first(CocoBoxes(str(root), image_size=SIDE))
    assert target[0]["boxes"].tolist() == [[4, 8, 12, 20]]
    _, classes = first(CocoMasks(str(root), image_size=SIDE))
    assert (classes[0] == 1).nonzero().amin(0).tolist() == [8, 4]
    assert (classes[0] == 1).nonzero().amax(0).tolist() == [19, 11]


def test_validation_is_held_out_from_the_training_images(root):
    data = CocoBoxes(str(root), image_size=SIDE, val_fraction=0.3)
    data.setup()
    files = {part: data.parts[part].images.files for part in ("train", "val", "test")}
    assert [len(files[part]) for part in ("train", "val", "test")] == [7, 3, 2]
    assert sorted(files["train"] + files["val"]) == sorted(f"{i}.png" for i in range(10))


def test_shapes_written_in_cocos_layout_are_read_as_they_were(tmp_path):
    """Boxes of the two kinds of data mean the same."""
    x, targets = ShapeImages(3, SIDE, 0, "test", "boxes").take([0, 1, 2])
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017").mkdir()
    found = []
    for number, (image, target) in enumerate(zip(x, targets, strict=True)):
        Image.fromarray(image.movedim(0, -1).numpy()).save(tmp_path / "val2017" / f"{number}.png")
        for (left, top, right, bottom), label in zip(target["boxes"].tolist(), target["labels"].tolist(), strict=True):
            box = [left, top, right - left, bottom - top]
            found.append({"image_id": number, "category_id": label, "bbox": box, "segmentation": []})
    categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES)][1:]
    images = [{"id": i, "file_name": f"{i}.png"} for i in range(3)]
    said = {"images": images, "annotations": found, "categories": categories}
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(said))
    data = CocoBoxes(str(tmp_path), image_size=SIDE)
    data.setup("test")
    again = data.on_after_batch_transfer(next(iter(data.test_dataloader())))
    assert data.num_classes == ShapeBoxes.num_classes
    assert torch.equal(again[0], x / 255)
    for ours, theirs in zip(again[1], targets, strict=True):
        assert torch.equal(ours["boxes"], theirs["boxes"])
        assert torch.equal(ours["labels"], theirs["labels"])


def test_what_is_refused(root):
    with pytest.raises(InputError, match=r"root: .*instances_val2017\.json cannot be read"):
        CocoMasks(str(root / "nowhere"))
    with pytest.raises(InputError, match=r"val_fraction: 0 is not in \(0, 0\.5\]"):
        CocoMasks(str(root), val_fraction=0)
    (root / "val2017" / "0.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"root: .*0\.png cannot be read as an image"):
        first(CocoMasks(str(root)))
    write(root, "val2017", 1, [annotation(0, 5, [0, 0, 4, 4])])
    with pytest.raises(InputError, match="root: category 5 of annotation"):
        first(CocoMasks(str(root)))
    (root / "annotations" / "instances_val2017.json").write_text("[]")
    with pytest.raises(InputError, match="holds no instances"):
        CocoMasks(str(root))
