import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from lit_distill.metrics.average_precision import THRESHOLDS, AveragePrecision, average_precision


def scene(seed, images=20, classes=3):
    """Objects, and detections near them and elsewhere."""
    generator = torch.Generator().manual_seed(seed)

    def boxes(count):
        corner = 40 * torch.rand(count, 2, generator=generator)
        return torch.cat([corner, corner + 5 + 20 * torch.rand(count, 2, generator=generator)], 1)

    found, target = [], []
    for _ in range(images):
        count = int(torch.randint(0, 6, (), generator=generator))
        true = {"boxes": boxes(count), "labels": torch.randint(1, classes + 1, (count,), generator=generator)}
        near = true["boxes"].repeat(2, 1) + 1.5 * torch.randn(2 * count, 4, generator=generator)
        other = boxes(3)
        labels = torch.cat([true["labels"].repeat(2), torch.randint(1, classes + 1, (3,), generator=generator)])
        scores = torch.rand(len(labels), generator=generator)
        found.append({"boxes": torch.cat([near, other]), "labels": labels, "scores": scores})
        target.append(true)
    return found, target


def by_hand(found, target, threshold):
    """The definition, one detection after the other."""
    precisions = []
    for label in sorted({int(label) for true in target for label in true["labels"]}):
        every = sorted(
            (
                (-float(score), image, place)
                for image, said in enumerate(found)
                for place, score in enumerate(said["scores"])
                if said["labels"][place] == label
            ),
        )
        objects = sum(int((true["labels"] == label).sum()) for true in target)
        taken, curve, right = set(), [], 0
        for number, (_, image, place) in enumerate(every, start=1):
            own = [i for i, x in enumerate(target[image]["labels"]) if x == label and (image, i) not in taken]
            overlap = {
                i: float(box_iou(found[image]["boxes"][place][None], target[image]["boxes"][i][None])) for i in own
            }
            best = max(own, key=overlap.__getitem__, default=None)
            if best is not None and overlap[best] >= threshold:
                taken.add((image, best))
                right += 1
            curve.append((right / objects, right / number))
        levels = [max((p for r, p in curve if r >= 0.01 * level), default=0.0) for level in range(101)]
        precisions.append(sum(levels) / 101)
    return sum(precisions) / len(precisions)


@pytest.mark.parametrize("threshold", [0.5, 0.75])
@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_what_the_definition_says(seed, threshold):
    found, target = scene(seed)
    metric = AveragePrecision((threshold,))
    metric.update(found, target)
    expected = by_hand(found, target, threshold)
    assert 0.05 < expected < 0.95
    assert float(metric.compute()) == pytest.approx(expected, abs=1e-6)


def test_over_thresholds_it_is_the_mean():
    found, target = scene(2)
    each = []
    for threshold in THRESHOLDS:
        metric = AveragePrecision((threshold,))
        metric.update(found, target)
        each.append(metric.compute())
    metric = AveragePrecision()
    metric.update(found, target)
    torch.testing.assert_close(metric.compute(), torch.stack(each).mean())


def test_batches_do_not_matter():
    found, target = scene(3)
    whole, parts = AveragePrecision(), AveragePrecision()
    whole.update(found, target)
    for start in range(0, 20, 7):
        parts.update(found[start : start + 7], target[start : start + 7])
    assert torch.equal(whole.compute(), parts.compute())


def test_it_agrees_with_cocos_own_code():
    pytest.importorskip("pycocotools")
    from torchmetrics.detection import MeanAveragePrecision

    found, target = scene(4)
    # torchmetrics would hand it numbers in single precision, of which some lie above the double ones
    recalls, thresholds = np.linspace(0, 1, 101).tolist(), np.linspace(0.5, 0.95, 10).tolist()
    ours, theirs = AveragePrecision(), MeanAveragePrecision(rec_thresholds=recalls, iou_thresholds=thresholds)
    ours.update(found, target)
    theirs.update(found, target)
    torch.testing.assert_close(ours.compute(), theirs.compute()["map"], atol=1e-6, rtol=0)


def test_finding_everything_is_one_and_nothing_is_zero():
    _, target = scene(5)
    perfect = [true | {"scores": torch.rand(len(true["labels"]))} for true in target]
    nothing = [{name: value[:0] for name, value in said.items()} for said in perfect]
    for found, value in ((perfect, 1.0), (nothing, 0.0)):
        metric = AveragePrecision()
        metric.update(found, target)
        assert float(metric.compute()) == value


def test_a_second_detection_of_an_object_is_wrong():
    box, label = torch.tensor([[0.0, 0.0, 8.0, 8.0]]), torch.tensor([1])
    apart = torch.tensor([[20.0, 20.0, 28.0, 28.0]])
    said = {
        "boxes": torch.cat([box, box, apart]),
        "labels": label.repeat(3),
        "scores": torch.tensor([0.9, 0.8, 0.7]),
    }
    metric = AveragePrecision()
    metric.update([said], [{"boxes": torch.cat([box, apart]), "labels": label.repeat(2)}])
    # up to half of the objects at precision 1, then two of three
    assert float(metric.compute()) == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_a_box_of_another_class_is_wrong():
    box = torch.tensor([[0.0, 0.0, 8.0, 8.0]])
    metric = AveragePrecision()
    said = {"boxes": box, "labels": torch.tensor([2]), "scores": torch.tensor([0.9])}
    metric.update([said], [{"boxes": box, "labels": torch.tensor([1])}])
    assert float(metric.compute()) == 0


def test_recalls_are_read_as_coco_rounds_them():
    """57 of 100 objects do not reach 57 times 0.01, which is a little more than 0.57."""
    right = torch.ones(57, 1, dtype=torch.bool)
    assert float(average_precision(right, objects=100)) == pytest.approx(57 / 101)


def test_without_objects_it_is_zero():
    said = {"boxes": torch.tensor([[0.0, 0.0, 8.0, 8.0]]), "labels": torch.tensor([2]), "scores": torch.tensor([0.9])}
    metric = AveragePrecision()
    metric.update([said], [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}])
    assert float(metric.compute()) == 0
