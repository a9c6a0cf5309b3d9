"""Training from stored answers is training with the teacher, without asking it."""

import copy
import os

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from lit_distill.data import CutMix, SelfMix
from lit_distill.errors import InputError
from lit_distill.losses import FKD, KD, DeiTSoft, FitNet, TopK
from lit_distill.store import SoftLabels, keep, make_labels

from ..distributed.ranks import run
from . import common
from .common import EPOCHS, data, distiller, live, network, teacher, trainer, weights


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    """All of a teacher's answers in float32."""
    folder = tmp_path_factory.mktemp("store") / "labels"
    make_labels(folder, data(), teacher(), 10, "float32")
    return folder


def fitted(module, folder, *callbacks, samples=None, **settings):
    trainer(folder, *callbacks, **settings).fit(module, samples or data())
    return weights(module)


def test_it_equals_training_with_the_teacher(exact, tmp_path):
    untrained, asked = weights(live()), fitted(live(), tmp_path)
    torch.testing.assert_close(fitted(distiller(exact), tmp_path), asked, rtol=0, atol=1e-5)
    assert max((asked[name] - untrained[name]).abs().max() for name in asked) > 1e-2


@pytest.mark.parametrize("rest", ["smoothing", "renorm"])
def test_with_some_of_the_classes_it_equals_a_teacher_that_says_as_much(rest, exact, tmp_path):
    class Quantised(nn.Module):
        """What Recover_soft_label of the authors makes of the top 3."""

        def __init__(self):
            super().__init__()
            self.network = teacher()

        def forward(self, x):
            p, best = self.network(x).softmax(-1).topk(3)
            other = (1 - p.sum(-1, keepdim=True)) / 7 if rest == "smoothing" else torch.full_like(p[:, :1], 1e-30)
            return other.repeat(1, 10).scatter(1, best, p).log()

    asked = fitted(live(teacher=Quantised(), losses={"fkd": FKD()}), tmp_path)
    torch.testing.assert_close(fitted(distiller(exact, topk=3, rest=rest), tmp_path), asked, rtol=0, atol=1e-5)
    whole = fitted(distiller(exact), tmp_path)
    assert max((asked[name] - whole[name]).abs().max() for name in asked) > 1e-4


def test_any_term_on_logits_learns_from_them(exact, tmp_path):
    losses = {"kd": TopK(KD(temperature=4.0), k=4)}
    asked = fitted(live(losses=copy.deepcopy(losses)), tmp_path)
    torch.testing.assert_close(fitted(distiller(exact, losses=losses), tmp_path), asked, rtol=0, atol=1e-5)


def test_the_teacher_is_not_asked_in_training(exact, tmp_path):
    module, calls = distiller(exact), []
    module.teacher.register_forward_hook(lambda *_: calls.append(module.trainer.training))
    run = trainer(tmp_path, limit_val_batches=1.0)
    run.fit(module, data())
    assert set(calls) == {False}  # but in validation
    assert {"val/agreement", "val/kl", "val/teacher_acc"} <= run.callback_metrics.keys()


def test_nor_is_it_needed(exact, tmp_path):
    module = distiller(exact, teacher=None)
    run = trainer(tmp_path, limit_val_batches=1.0)
    run.fit(module, data())
    torch.testing.assert_close(weights(module), fitted(distiller(exact), tmp_path), rtol=0, atol=0)
    assert {"val/acc", "val/ece"} == {name for name in run.callback_metrics if name.startswith("val/")}
    run.test(module, data(), verbose=False)
    assert not [name for name in module.state_dict() if not name.startswith("student.")]


def test_a_missing_folder_is_made(tmp_path, capsys):
    folder = tmp_path / "deep" / "labels"
    fitted(distiller(folder, topk=4), tmp_path)
    assert f"{folder} is missing or not complete: asking the teacher" in capsys.readouterr().out
    assert SoftLabels(folder).card["topk"] == 4
    fitted(distiller(folder, topk=3), tmp_path)
    assert "asking the teacher" not in capsys.readouterr().out


def test_so_is_one_that_was_interrupted(exact, tmp_path):
    make_labels(tmp_path / "labels", data(), teacher(), 10)
    os.remove(tmp_path / "labels" / "view_0001.safetensors")
    fitted(distiller(tmp_path / "labels"), tmp_path)
    assert SoftLabels(tmp_path / "labels").card["views"] == 2


@pytest.mark.parametrize("short", [{"fast_dev_run": 3}, {"limit_train_batches": 1}, {"limit_train_batches": 0.5}])
def test_a_trial_asks_the_teacher_and_writes_nothing(short, exact, tmp_path):
    tried = fitted(distiller(tmp_path / "none"), tmp_path, **short)
    assert not (tmp_path / "none").exists()
    torch.testing.assert_close(tried, fitted(distiller(exact), tmp_path, **short), rtol=0, atol=1e-5)


class SaveAt(L.Callback):
    """Writes checkpoints after some steps."""

    def __init__(self, folder, *steps):
        self.folder, self.steps = folder, steps

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step in self.steps:
            trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


def test_a_resumed_run_goes_on_with_the_view_of_its_epoch(exact, tmp_path):
    steps = (4, 8)  # within the second and the third epoch
    uninterrupted = fitted(distiller(exact), tmp_path, SaveAt(tmp_path, *steps))
    for step in steps:
        module = distiller(exact)
        trainer(tmp_path).fit(module, data(), ckpt_path=tmp_path / f"{step}.ckpt")
        torch.testing.assert_close(weights(module), uninterrupted, rtol=0, atol=0)


@pytest.mark.distributed
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_ranks_equal_one(strategy, tmp_path):
    """They also make the folder, which one process finds."""
    labels = str(tmp_path / "labels")
    shared = run(common.fit, tmp_path / strategy, labels, strategy=strategy)
    (one,) = run(common.fit, tmp_path / "one", labels, ranks=1)
    for result in shared:
        torch.testing.assert_close(result["weights"], one["weights"], rtol=0, atol=1e-5)
        assert result["val"] == pytest.approx(one["val"], abs=1e-5)


def test_a_mixture_within_images_reaches_the_student_alone(exact, tmp_path):
    module, seen = distiller(exact), []
    answer = module.teacher_logits
    module.teacher_logits = lambda x, index: seen.append((x, index, answer(x, index))) or seen[-1][2]
    fitted(module, tmp_path, samples=data(mix=SelfMix()))
    stored = SoftLabels(exact)
    changed = 0
    for step, (x, index, logits) in enumerate(seen):
        view = step // (len(seen) // EPOCHS) % 2
        torch.testing.assert_close(
            logits.gather(1, stored.rows(index, view).indices.long()), stored.rows(index, view).values
        )
        changed += not torch.allclose(teacher()(x).log_softmax(-1), logits, atol=1e-3)
    assert changed > len(seen) / 2


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"views": None}, "data.views: not given"),
        ({"views": 4}, "was made for views 2, and here it is 4"),
        ({"index": False}, "data.index: false"),
        ({"mix": CutMix()}, "data.mix: CutMix"),
        ({"split_seed": 1}, "was made for split_seed 0"),
        ({"limit": 30}, "lacks 9 of the 30 training samples"),
    ],
)
def test_data_that_does_not_match(changed, message, exact, tmp_path):
    with pytest.raises(InputError, match=message) as error:
        trainer(tmp_path).fit(distiller(exact), data(**changed))
    assert "\n" not in str(error.value)


def test_the_seed_of_the_run_is_free(exact, tmp_path):
    first, second = (fitted(distiller(exact), tmp_path, samples=data(seed=seed)) for seed in (0, 1))
    assert any(not torch.equal(first[name], second[name]) for name in first)


class Seven(nn.Module):
    """Answers with too few classes for the folder, and enough for no data."""

    def __init__(self):
        super().__init__()
        self.network = network(8)
        self.network.fc = nn.Linear(self.network.fc.in_features, 12)

    def forward(self, x):
        return self.network(x)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"teacher": teacher(2)}, "was made for weights"),
        ({"topk": 11}, "topk: 11 given, and .* holds 10; accepted are 1 to that"),
        ({"topk": 0}, "topk: 0 given"),
        ({"teacher": None, "student": Seven()}, "knows 10 classes, the student 12"),
    ],
)
def test_networks_that_do_not_match(changed, message, exact, tmp_path):
    with pytest.raises(InputError, match=message):
        trainer(tmp_path).fit(distiller(exact, **changed), data())


def test_nothing_to_learn_from(tmp_path):
    with pytest.raises(InputError, match="is missing or not complete, and there is no teacher to make it"):
        trainer(tmp_path).fit(distiller(tmp_path / "none", teacher=None), data())
    with pytest.raises(InputError, match="data: NoneType given; stored answers need a data module"):
        trainer(tmp_path, limit_val_batches=None).fit(distiller(tmp_path / "none"), *[DataLoader([0])] * 2)


@pytest.mark.parametrize("given", [None, "teacher"])
def test_only_logits_are_stored(given, tmp_path):
    networks = {"teacher": None if given is None else teacher()}
    with pytest.raises(InputError, match="teacher: one is not stored"):
        distiller(tmp_path, losses={"kd": KD(teacher="one")}, **networks)
    with pytest.raises(InputError, match="hint: reads fc of the teacher"):
        distiller(tmp_path, losses={"hint": WithLayers()}, **networks)
    with pytest.raises(InputError, match="hint: FitNet is not a LogitLoss"):
        distiller(tmp_path, losses={"hint": FitNet(layers={"fc": ""})}, **networks)
    with pytest.raises(InputError, match="rest: 'none' is not known"):
        distiller(tmp_path, rest="none", **networks)


class WithLayers(KD):
    def __init__(self):
        super().__init__()
        self.layers = {"": "fc"}


@pytest.mark.parametrize("given", [None, "teacher"])
def test_layers_of_the_student_are_compared_with_the_answer(given, exact, tmp_path):
    def term():
        return {"deit": DeiTSoft(class_head="fc", token_head="")}

    asked = fitted(live(losses=term()), tmp_path)
    networks = {"teacher": None if given is None else teacher()}
    torch.testing.assert_close(fitted(distiller(exact, losses=term(), **networks), tmp_path), asked, rtol=0, atol=1e-5)


def test_a_copy_of_the_module_does_not_copy_the_folder(exact, tmp_path):
    module = distiller(exact)
    fitted(module, tmp_path, max_epochs=1)
    module.trainer = None
    assert copy.deepcopy(module).stored is module.stored


def test_checkpoints_hold_the_student_alone(exact):
    module = distiller(exact)
    assert {name.partition(".")[0] for name in module.state_dict()} == {"student"}
    assert module.hparams.labels == str(exact)


def test_keep_is_what_a_trial_does(exact):
    module = distiller(exact, topk=3)
    x = torch.randn(4, 1, 8, 8)
    said = module.teacher_logits(x, torch.arange(4))
    torch.testing.assert_close(keep(said, 3).values, keep(teacher()(x), 3).values)
