"""A detector's own losses are terms of the objective, and terms on features come on top."""

import json

import lightning as L
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn, retinanet_resnet50_fpn, ssdlite320_mobilenet_v3_large
from torchvision.transforms.functional import pil_to_tensor

import lit_distill
from lit_distill.callbacks import PredictedImages
from lit_distill.data import ShapeBoxes
from lit_distill.dense_predictions import write_boxes, write_masks
from lit_distill.detection import DetectionDistiller, classes_of
from lit_distill.errors import InputError
from lit_distill.losses import KD, MGD, PKD
from lit_distill.losses.feature.pkd import pkd
from lit_distill.metrics import AveragePrecision
from lit_distill.models import ConvNet, default_layers, detector
from lit_distill.report import write_predictions

SIDE, CLASSES = 32, 5
LEVELS = tuple(f"backbone.fpn.layer_blocks.{level}" for level in range(3))


def small(width=4):
    return detector(ConvNet(width=width, depth=4), CLASSES, SIDE, channels=32, convs=1)


def distiller(student=None, teacher=None, losses=None, **kwargs):
    return DetectionDistiller(
        student=student or small(),
        teacher=teacher,
        losses=losses,
        optimizer=torch.optim.Adam,
        input_shape=(3, SIDE, SIDE),
        **kwargs,
    )


def data(**kwargs):
    counts = {"train_images": 8, "val_images": 4, "test_images": 4, "batch_size": 4}
    return ShapeBoxes(size=SIDE, **counts | kwargs)


def batch():
    made = data()
    made.setup()
    return made.on_after_batch_transfer(next(iter(made.val_dataloader())))


def trainer(folder, **kwargs):
    settings = {
        "accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
        "enable_model_summary": False, "default_root_dir": folder,
    }  # fmt: skip
    return L.Trainer(**settings | kwargs)


def test_its_own_losses_are_terms_and_a_levels_correlation_comes_on_top():
    student, teacher = small(), small(8)
    module = distiller(student, teacher, {"pkd": PKD(weight=10.0, layers={LEVELS[0]: LEVELS[0]})})
    x, target = batch()
    _, terms = module.terms((x, target))
    assert list(terms) == ["classification", "bbox_regression", "bbox_ctrness", "pkd"]
    assert {name: module.weight_of(name) for name in terms} == {**dict.fromkeys(terms, 1.0), "pkd": 10.0}
    own = student(x, target)
    assert all(torch.equal(terms[name], value) for name, value in own.items())
    normalised = student.transform(list(x))[0].tensors
    with torch.no_grad():
        levels = [network.backbone(normalised)["0"] for network in (student.train(), teacher.eval())]
    torch.testing.assert_close(terms["pkd"], pkd(*levels))
    assert all(name.startswith("student.") for name in module.state_dict())


def test_by_default_the_levels_of_both_pyramids_are_compared():
    assert default_layers(small()) == LEVELS
    module = distiller(small(), small(8), {"pkd": PKD()})
    assert module.losses["pkd"].layers == dict(zip(LEVELS, LEVELS, strict=True))


def test_the_teacher_stays_as_it_is_and_everything_of_the_student_learns(tmp_path):
    teacher = small(8)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student = small()
    begun = {name: value.clone() for name, value in student.named_parameters()}
    module = distiller(student, teacher, {"mgd": MGD(mask="positions", ratio=0.5, layers={LEVELS[0]: LEVELS[0]})})
    run = trainer(tmp_path, max_epochs=1)
    run.fit(module, data())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert [name for name, value in student.named_parameters() if torch.equal(value, begun[name])] == []
    assert {"train/classification", "train/mgd", "val/map", "val/map_50", "val/teacher_map"} <= set(
        run.callback_metrics
    )
    assert all(torch.isfinite(value) for value in run.callback_metrics.values())


class Knowing(nn.Module):
    """Finds what is there, or what is there beside it, however the image looks."""

    def __init__(self, target, shift=0.0):
        super().__init__()
        self.found = [
            {"boxes": true["boxes"] + shift, "labels": true["labels"], "scores": torch.ones(len(true["labels"]))}
            for true in target
        ]
        self.head = nn.Module()
        self.head.classification_head = nn.Module()
        self.head.classification_head.num_classes = CLASSES

    def forward(self, x, target=None):
        return self.found[: len(x)]


def test_metrics_are_average_precisions_of_student_and_teacher(tmp_path):
    made = data()
    made.setup()
    (_, target), student = batch(), small()
    module = distiller(student, Knowing(target, shift=1.0))
    run = trainer(tmp_path)
    (metrics,) = run.validate(module, made, verbose=False)
    expected = AveragePrecision()
    expected.update(Knowing(target, shift=1.0).found, target)
    assert 0 < metrics["val/teacher_map"] < 1
    assert metrics["val/teacher_map"] == pytest.approx(float(expected.compute()))
    (metrics,) = run.validate(distiller(Knowing(target)), made, verbose=False)
    assert metrics == {"val/map": 1.0, "val/map_50": 1.0}


@pytest.mark.parametrize(
    ("build", "classes"),
    [
        (lambda: ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=7), 7),
        (lambda: retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=4), 4),
        (lambda: fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3), 3),
        (small, CLASSES),
    ],
    ids=["ssdlite", "retinanet", "fasterrcnn", "fcos"],
)
def test_classes_of_torchvisions_detectors(build, classes):
    with torch.device("meta"):
        assert classes_of(build()) == classes


def test_what_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"losses\.kd: KD is no term on features"):
        distiller(losses={"kd": KD()})
    with pytest.raises(InputError, match="must answer with a list of dicts"):
        distiller(ConvNet(width=4, depth=2))
    with pytest.raises(InputError, match=r"none of torchvision's detectors"):
        classes_of(ConvNet())
    module = distiller(small(), small(), {"classification": PKD()})
    with pytest.raises(InputError, match="losses: 'classification' is a loss of the student's own"):
        module.terms(batch())
    few = distiller(detector(ConvNet(width=4, depth=4), 3, SIDE, channels=32, convs=1))
    with pytest.raises(InputError, match="student: answers 3 classes, and the data has 5"):
        trainer(tmp_path).validate(few, data(), verbose=False)


def test_it_is_public():
    assert lit_distill.DetectionDistiller is DetectionDistiller


def test_a_picture_shows_images_truth_and_boxes(tmp_path):
    run = trainer(tmp_path, max_epochs=1, callbacks=[PredictedImages(count=2)])
    run.fit(distiller(), data())
    with Image.open(tmp_path / "predictions.png") as image:
        assert image.size == (2 * 130 + 2, 3 * 130 + 2)


def test_predictions_of_a_run_are_a_file_of_boxes(tmp_path):
    (_, target), run = batch(), trainer(tmp_path)
    run.predict(distiller(Knowing(target)), data())
    write_predictions(run)
    entries = json.loads((tmp_path / "predictions.json").read_text())
    assert [entry["category_id"] for entry in entries] == torch.cat([true["labels"] for true in target]).tolist()


def test_predictions_are_files_that_other_tools_read(tmp_path, capsys):
    _, target = batch()
    said = [
        {"boxes": true["boxes"], "labels": true["labels"], "scores": torch.full((len(true["labels"]),), 0.5)}
        for true in target
    ]
    write_boxes([said[:3], said[3:]], tmp_path / "predictions.json")
    entries = json.loads((tmp_path / "predictions.json").read_text())
    assert len(entries) == sum(len(true["labels"]) for true in target)
    for number, true in enumerate(target):
        own = [entry for entry in entries if entry["image_id"] == number]
        assert [entry["category_id"] for entry in own] == true["labels"].tolist()
        boxes = torch.tensor([entry["bbox"] for entry in own]).view(-1, 4)
        torch.testing.assert_close(boxes[:, :2] + boxes[:, 2:], true["boxes"][:, 2:])
        torch.testing.assert_close(boxes[:, :2], true["boxes"][:, :2])
    logits = torch.randn(3, 5, 4, 6)
    write_masks([logits[:2], logits[2:]], tmp_path / "masks")
    for number, expected in enumerate(logits.argmax(1)):
        with Image.open(tmp_path / "masks" / f"{number:06d}.png") as image:
            assert torch.equal(pil_to_tensor(image)[0].long(), expected)
    assert "3 pictures" in capsys.readouterr().out


@pytest.mark.learns
def test_a_detector_learns_to_find_the_shapes_that_it_is_shown(tmp_path):
    L.seed_everything(0, verbose=False)
    student = small(16)
    settings = {"train_images": 8, "batch_size": 8}
    module = DetectionDistiller(student=student, optimizer=lambda parameters: torch.optim.Adam(parameters, lr=3e-3))
    run = trainer(tmp_path, max_epochs=70, limit_val_batches=0)
    run.fit(module, data(**settings))
    shown = data(**settings)
    shown.setup()
    student.eval()
    found, there = AveragePrecision((0.5,)), [shown.on_after_batch_transfer(raw) for raw in shown.train_dataloader()]
    with torch.no_grad():
        for x, target in there:
            found.update(student(x), target)
    assert found.compute() > 0.5
