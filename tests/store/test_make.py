"""The answers are those to what a student sees, and are made once."""

import json
import os

import pytest
import torch
from PIL import Image
from torch import nn

from lit_distill.data import CutMix, ImageFolder, SelfMix
from lit_distill.errors import InputError
from lit_distill.store import SoftLabels, StoredDistiller, expand, make, make_labels

from ..distributed.ranks import run
from . import common
from .common import SAMPLES, VIEWS, data, distiller, teacher, trainer


class Asking(StoredDistiller):
    """Compares what it reads with what the teacher says about the very images."""

    def teacher_logits(self, x, index):
        read = super().teacher_logits(x, index)
        asked = self.teacher(x).log_softmax(-1)
        self.errors.append((read.exp() - asked.exp()).abs().max())
        self.shown[self.current_epoch].append(x)
        return read


@pytest.fixture
def photos(tmp_path):
    """Twelve images of random size in two classes."""
    generator = torch.Generator().manual_seed(0)
    for number in range(12):
        file = tmp_path / "images/train" / ("ant", "bee")[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        height, width = torch.randint(20, 40, (2,), generator=generator).tolist()
        pixels = torch.randint(256, (height, width, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(file)
    os.symlink("train", tmp_path / "images/val")
    settings = {"root": str(tmp_path / "images"), "image_size": 16, "batch_size": 4, "val_fraction": 0.2}
    return lambda **kwargs: ImageFolder(views=VIEWS, index=True, **settings | kwargs)


def judge():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("images", ["digits", "photos"])
def test_stored_answers_are_those_to_what_the_student_sees(images, num_workers, tmp_path, photos):
    if images == "digits":
        make_one, network, topk, shape = data, teacher(), 10, (1, 8, 8)
    else:
        make_one, network, topk, shape = photos, judge(), 2, (3, 16, 16)
    make_labels(tmp_path / "labels", make_one(num_workers=num_workers), network, topk, "float32")
    settings = {"teacher": network, "topk": topk, "input_shape": shape}
    if images == "photos":
        settings["student"] = judge()
    module = distiller(tmp_path / "labels", Asking, **settings)
    module.errors, module.shown = [], {epoch: [] for epoch in range(4)}
    trainer(tmp_path).fit(module, make_one(num_workers=num_workers, seed=5))
    assert len(module.errors) == 4 * len(module.shown[0])
    assert max(module.errors) < 1e-5
    # which says something only if views differ, and images come in another order each time
    first, second, third, _ = (torch.cat(module.shown[epoch]) for epoch in range(4))
    assert not torch.equal(first, third)
    assert torch.equal(first.flatten(1).sort(0).values, third.flatten(1).sort(0).values)
    assert not torch.equal(first.flatten(1).sort(0).values, second.flatten(1).sort(0).values)


def test_without_augmentation_there_is_one_view(tmp_path):
    stored = make_labels(tmp_path / "labels", data(augment=False, views=None), teacher(), 3)
    assert stored.card["views"] == 1
    stored.check(data_set_up(augment=False, views=None, seed=1), teacher())


def data_set_up(**kwargs):
    made = data(**kwargs)
    made.setup("fit")
    return made


def test_the_card_says_what_the_folder_holds(tmp_path):
    stored = make_labels(tmp_path / "labels", data(), teacher(), 3)
    assert sorted(os.listdir(stored.folder)) == [
        "card.json",
        "samples.safetensors",
        "view_0000.safetensors",
        "view_0001.safetensors",
    ]
    card = json.loads((stored.folder / "card.json").read_text())
    assert (card["views"], card["samples"], card["classes"], card["topk"]) == (VIEWS, SAMPLES, 10, 3)
    assert card["dtype"] == "float16"
    assert card["teacher"] == "lit_distill.models.convnet.ConvNet"
    assert stored.samples.tolist() == data_set_up().parts["train"].positions.tolist()
    rows = stored.rows(stored.samples[[5, 2]], 1)
    assert rows.values.shape == rows.indices.shape == (2, 3)
    torch.testing.assert_close(expand(rows, 10)[0], expand(stored.rows(stored.samples[[5]], 1), 10)[0])


@pytest.fixture
def asked(monkeypatch):
    """Which views a teacher was asked about."""
    views, answers = [], make.answers

    def counted(data, part, teacher, view, topk, device):
        views.append(view)
        return answers(data, part, teacher, view, topk, device)

    monkeypatch.setattr(make, "answers", counted)
    return views


def test_the_teacher_is_asked_once(tmp_path, asked):
    first = make_labels(tmp_path / "labels", data(), teacher(), 3)
    again = make_labels(tmp_path / "labels", data(), teacher(), 3)
    assert asked == [0, 1]
    assert torch.equal(first.samples, again.samples)


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, asked, monkeypatch):
    whole = make_labels(tmp_path / "whole", data(), teacher(), 3)
    write = make.write_shard

    def interrupted(file, *args):
        if file.name == "view_0001.safetensors":
            raise KeyboardInterrupt
        write(file, *args)

    monkeypatch.setattr(make, "write_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_labels(tmp_path / "labels", data(), teacher(), 3)
    monkeypatch.setattr(make, "write_shard", write)
    with pytest.raises(InputError, match="lacks 1 of 2 views; `lit-distill labels` finishes it"):
        SoftLabels(tmp_path / "labels")
    asked.clear()
    continued = make_labels(tmp_path / "labels", data(), teacher(), 3)
    assert asked == [1]
    for view in range(VIEWS):
        for one, other in zip(whole.rows(whole.samples, view), continued.rows(whole.samples, view), strict=True):
            assert torch.equal(one, other)


@pytest.mark.distributed
def test_of_two_processes_one_works(tmp_path):
    assert sorted(run(common.ask, tmp_path)) == [[], [0, 1]]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"views": 3}, "views 2, and here it is 3"),
        ({"split_seed": 1}, "split_seed 0, and here it is 1"),
        ({"augment": False}, "augment True, and here it is False"),
        ({"limit": 30}, "samples 21, and here it is 30"),
        ({"val_fraction": 0.2}, "other training samples"),
    ],
)
def test_a_folder_of_other_images_is_left_alone(tmp_path, changed, message):
    make_labels(tmp_path / "labels", data(), teacher(), 3)
    before = {file.name: file.read_bytes() for file in (tmp_path / "labels").iterdir()}
    with pytest.raises(InputError, match=message):
        make_labels(tmp_path / "labels", data(**changed), teacher(), 3)
    assert {file.name: file.read_bytes() for file in (tmp_path / "labels").iterdir()} == before


@pytest.mark.parametrize(("k", "dtype", "seed"), [(4, "float16", 1), (3, "float32", 1), (3, "float16", 2)])
def test_a_folder_of_another_kind_or_teacher_is_left_alone(tmp_path, k, dtype, seed):
    make_labels(tmp_path / "labels", data(), teacher(), 3)
    with pytest.raises(InputError, match="use the same settings, or another folder"):
        make_labels(tmp_path / "labels", data(), teacher(seed), k, dtype)


@pytest.mark.parametrize("changed", [{"image_size": 12}, {"min_scale": 0.5}, {"mean": (0.0, 0.0, 0.0)}])
def test_images_that_look_otherwise_are_noticed(tmp_path, photos, changed):
    stored = make_labels(tmp_path / "labels", photos(), judge(), 2)
    same, other = photos(), photos(**changed)
    same.setup("fit")
    stored.check(same)
    other.setup("fit")
    with pytest.raises(InputError, match="images that look otherwise"):
        stored.check(other)


def test_fewer_samples_are_enough_and_more_are_not(tmp_path):
    stored = make_labels(tmp_path / "labels", data(), teacher(), 3)
    stored.check(data_set_up(limit=SAMPLES // 2), teacher())
    with pytest.raises(InputError, match="lacks 9 of the 30 training samples"):
        stored.check(data_set_up(limit=30))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"views": None}, "data.views: not given"),
        ({"strong_view": True}, "data.strong_view: true"),
        ({"mix": CutMix()}, "data.mix: CutMix mixes images with others"),
    ],
)
def test_data_that_no_answers_can_be_stored_for(tmp_path, changed, message):
    with pytest.raises(InputError, match=message):
        make_labels(tmp_path / "labels", data(**changed), teacher(), 3)
    assert os.listdir(tmp_path) == []


def test_a_mixture_within_images_changes_no_answer(tmp_path):
    one = make_labels(tmp_path / "one", data(), teacher(), 3)
    other = make_labels(tmp_path / "other", data(mix=SelfMix()), teacher(), 3)
    assert torch.equal(one.rows(one.samples, 1).values, other.rows(one.samples, 1).values)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"topk": 0}, "topk must be from 1 to the number of classes, 10, got 0"),
        ({"topk": 11}, "topk must be from 1 to the number of classes, 10, got 11"),
        ({"dtype": "int8"}, "dtype must be one of float16, float32, got 'int8'"),
    ],
)
def test_arguments_are_checked(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        make_labels(tmp_path / "labels", data(), teacher(), **{"topk": 3} | arguments)
