import shutil

import pytest
import torch
from torch import nn

from lit_distill.cli import main
from lit_distill.data import Digits
from lit_distill.dataset.artifact import DistilledDataset, save_distilled
from lit_distill.dataset.evaluation import evaluate
from lit_distill.dataset.recipe import Recipe
from lit_distill.dataset.relabelling import asked, relabel
from lit_distill.dataset.soft_views import StoredViews, Views, cutmix_box, planned
from lit_distill.dataset.step import Labelled
from lit_distill.dataset.targets import soft_divergence
from lit_distill.dataset.training import train
from lit_distill.errors import InputError
from lit_distill.losses.logit.kd import kd
from lit_distill.models import CondensationConvNet

RECIPE = Recipe(epochs=4, lr=0.01, batch_size=7, schedule="constant", temperature=4.0)


def network(norm="batch", seed=0):
    torch.manual_seed(seed)
    return CondensationConvNet((1, 8, 8), num_classes=10, width=4, depth=2, norm=norm).eval()


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(1)
    images = torch.randn(10, 2, 1, 8, 8)
    targets = torch.arange(10)[:, None].expand(-1, 2)
    return save_distilled(tmp_path / "set", Labelled(images, targets), 10, Digits.mean, Digits.std)


def test_views_do_not_depend_on_the_batch():
    images, views = torch.randn(9, 1, 8, 8), Views(seed=3)
    whole = views(images, torch.arange(9), 5)
    order = torch.randperm(9)
    for size in (1, 4, 9):
        parts = torch.cat([views(images, rows, 5) for rows in order.split(size)])
        assert torch.equal(parts, whole[order])
    assert not torch.equal(views(images, torch.arange(9), 6), whole)
    assert not torch.equal(Views(seed=4)(images, torch.arange(9), 5), whole)


def test_views_without_anything_random():
    images = torch.randn(5, 1, 8, 8)
    plain = Views(smallest_crop=1.0, flip=False, cutmix=0.0)
    assert torch.equal(plain(images, torch.arange(5), 0), images)
    mirrored = Views(smallest_crop=1.0, cutmix=0.0)(images, torch.arange(5), 0)
    for image, shown in zip(images, mirrored, strict=True):
        assert torch.equal(shown, image) or torch.equal(shown, image.flip(-1))


def test_mixtures_are_of_two_images():
    images = torch.arange(1.0, 7.0)[:, None, None, None].expand(-1, 1, 8, 8)
    views = Views(flip=False)
    plan = planned(views, 6, (8, 8), 0)
    mixed = views(images, torch.arange(6), 0)
    for i, (image, box) in enumerate(zip(mixed, plan.pasted, strict=True)):
        inside = image[:, box.top : box.top + box.height, box.left : box.left + box.width]
        torch.testing.assert_close(inside, torch.full_like(inside, plan.partners[i].item() + 1.0))
        own = (image - (i + 1)).abs() < 1e-5
        assert own.sum() >= 64 - box.height * box.width


def test_how_often_images_are_mixed():
    plan = planned(Views(cutmix=0.3), 2000, (32, 32), 0)
    assert abs(sum(box.height > 0 for box in plan.pasted) / 2000 - 0.3) < 0.05


def test_share_of_a_box_is_uniform():
    generator = torch.Generator().manual_seed(0)
    boxes = [cutmix_box((64, 64), generator) for _ in range(3000)]
    assert all(b.top >= 0 and b.left >= 0 and b.top + b.height <= 64 and b.left + b.width <= 64 for b in boxes)
    middle = [b.height * b.width / 64**2 for b in boxes if b.top > 0 and b.top + b.height < 64 and b.width == b.height]
    assert len(middle) > 100


def test_divergence_is_kd_without_the_square_of_the_temperature():
    one, other = torch.randn(4, 6), torch.randn(4, 6)
    torch.testing.assert_close(16 * soft_divergence(one, other, 4.0), kd(one, other, 4.0))
    torch.testing.assert_close(soft_divergence(one, other.log_softmax(-1), 4.0), soft_divergence(one, other, 4.0))


@pytest.mark.parametrize("size", [1, 6, 20])
def test_answers_are_those_about_the_batch(folder, size):
    teacher = network()
    stored = relabel(folder, teacher, count=3, dtype="float32", batch_size=size)
    images = DistilledDataset.load(folder).images
    for epoch in range(4):
        rows = torch.randperm(20)[:9]
        x, said = stored.batch(images, rows, epoch)
        assert torch.equal(x, stored.views(images, rows, epoch % 3))
        torch.testing.assert_close(said, teacher(x).log_softmax(-1), rtol=1e-4, atol=1e-5)


def test_keeps_the_likeliest_classes(folder):
    stored = relabel(folder, network(), count=2, topk=3)
    images = DistilledDataset.load(folder).images
    x, said = stored.batch(images, torch.arange(20), 1)
    wanted = network()(x).softmax(-1)
    values, classes = wanted.topk(3)
    torch.testing.assert_close(said.exp().gather(1, classes), values, rtol=2e-3, atol=1e-4)
    torch.testing.assert_close(said.exp().sum(1), torch.ones(20))
    assert {file.suffix for file in stored.answers.folder.iterdir()} == {".json", ".safetensors"}


def test_goes_on_where_it_was_interrupted(folder):
    relabel(folder, network(), count=3)
    files = {file: file.read_bytes() for file in (folder / "labels").glob("view_*")}
    lost = folder / "labels" / "view_0001.safetensors"
    lost.unlink()
    assert DistilledDataset.load(folder).stored is None
    with pytest.raises(InputError, match="labels is missing or not complete; `lit-distill relabel`"):
        StoredViews(folder / "labels")
    kept = (folder / "labels" / "view_0000.safetensors").stat().st_mtime_ns
    relabel(folder, network(), count=3)
    assert {file: file.read_bytes() for file in files} == files
    assert (folder / "labels" / "view_0000.safetensors").stat().st_mtime_ns == kept


def test_labels_of_another_set_or_teacher(folder, tmp_path):
    relabel(folder, network(), count=2)
    with pytest.raises(InputError, match="was made for weights"):
        relabel(folder, network(seed=1), count=2)
    with pytest.raises(InputError, match="was made for views 2, and here it is 5"):
        relabel(folder, network(), count=5)
    images = Labelled(torch.randn(10, 2, 1, 8, 8), torch.arange(10)[:, None].expand(-1, 2))
    other = save_distilled(tmp_path / "other", images, 10, Digits.mean, Digits.std)
    shutil.copytree(folder / "labels", other / "labels")
    with pytest.raises(InputError, match="was made for another set; delete it and relabel"):
        DistilledDataset.load(other)


def test_batch_statistics(folder):
    """The teacher says what it would say in training mode, and does not learn."""
    teacher = network()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    stored = relabel(folder, teacher, count=1, dtype="float32", statistics="batch", batch_size=20)
    torch.testing.assert_close(teacher.state_dict(), before, rtol=0, atol=0)
    x, said = stored.batch(DistilledDataset.load(folder).images, torch.arange(20), 0)
    torch.testing.assert_close(said, teacher.train()(x).log_softmax(-1), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(said, network()(x).log_softmax(-1), atol=1e-2)


def test_networks_in_the_teacher_are_left_in_eval_mode():
    teacher = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5)).train()
    assert not any(module.training for module in asked(teacher, "batch").modules())
    assert all(module.training for module in teacher.modules())


def test_training_on_what_was_stored(folder):
    """Equal to training on the same views with the teacher at hand."""
    teacher = network()
    stored = relabel(folder, teacher, count=4, dtype="float32")
    distilled = DistilledDataset.load(folder)
    losses, wanted = [], []
    generator = torch.Generator().manual_seed(0)
    student = network("instance", seed=2)
    train(student, distilled.images, distilled.targets, RECIPE, generator, 10, watch=losses.append, stored=stored)

    class Online:
        def loss(self, network, images, rows, epoch, temperature):
            x = stored.views(images, rows, epoch)
            with torch.no_grad():
                said = teacher(x)
            return soft_divergence(network(x), said, temperature)

    other, generator = network("instance", seed=2), torch.Generator().manual_seed(0)
    train(other, distilled.images, distilled.targets, RECIPE, generator, 10, watch=wanted.append, stored=Online())
    torch.testing.assert_close(torch.stack(losses), torch.stack(wanted), rtol=1e-3, atol=1e-5)


def test_evaluation_tries_them(folder):
    relabel(folder, network(), count=2)
    distilled = DistilledDataset.load(folder)
    build = {"convnet": lambda: CondensationConvNet((1, 8, 8), width=2, depth=1)}
    rows = evaluate([distilled], Digits(limit=100), RECIPE, build, networks=1, split="val")
    assert [(row["set"], row["labels"]) for row in rows][:2] == [("distilled", "hard"), ("distilled", "stored")]
    folder_without = DistilledDataset.load(folder)
    folder_without.stored = None
    with pytest.raises(InputError, match="only some are relabelled"):
        evaluate([distilled, folder_without], Digits(limit=100), RECIPE, build, networks=1, split="val")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "count must be at least 1, got 0"),
        ({"topk": 0}, "topk must be at least 1, got 0"),
        ({"dtype": "int8"}, "dtype must be one of float16, float32, got 'int8'"),
        ({"statistics": "none"}, "statistics must be running or batch, got 'none'"),
        ({"teacher": CondensationConvNet((1, 8, 8), 7, 2, 1)}, "teacher knows 7 classes, and the set has 10"),
        ({"teacher": CondensationConvNet((3, 8, 8), 10, 2, 1)}, "CondensationConvNet takes images"),
    ],
)
def test_wrong_arguments(folder, arguments, message):
    with pytest.raises(InputError, match=message):
        relabel(folder, **({"teacher": network()} | arguments))


@pytest.mark.parametrize(
    ("arguments", "message"), [({"smallest_crop": 0.0}, "smallest_crop"), ({"cutmix": 2.0}, "cutmix")]
)
def test_impossible_views(arguments, message):
    with pytest.raises(InputError, match=f"{message} must be in"):
        Views(**arguments)


def test_command(folder, workshop, capsys):
    assert (
        main(
            [
                "relabel",
                str(folder),
                "--teacher",
                "teachers/condensation_digits",
                "--config",
                "rded_digits_ipc1",
                "--views",
                "2",
                "--seed",
                "5",
            ]
        )
        == 0
    )
    assert "2 views of 20 images, the 10 likeliest of 10 classes" in capsys.readouterr().out
    stored = DistilledDataset.load(folder).stored
    assert stored.views == Views(seed=5, flip=False)
    assert main(["relabel", str(folder / "nowhere"), "--teacher", "teachers/condensation_digits"]) == 2
