from dataclasses import replace
from functools import partial

import lightning as L
import pytest
import torch
from torch import nn

from lit_distill.data import ClassBatches, Digits
from lit_distill.dataset import DatasetDistiller, DistributionMatching, Evaluation, Fresh, Pixels
from lit_distill.dataset.architectures import architecture
from lit_distill.dataset.artifact import DistilledDataset
from lit_distill.dataset.evaluation import Controls, Judge, evaluate, summary
from lit_distill.dataset.evaluation_report import table, write_report
from lit_distill.dataset.recipe import Recipe, recipe_of
from lit_distill.dataset.training import train
from lit_distill.errors import InputError
from lit_distill.models import MLP, CondensationConvNet

from .small import chosen, saved, soft

RECIPE = Recipe(epochs=5, lr=0.05, schedule="constant")
MODEL = partial(MLP, (1, 8, 8), 10, (16,))
FIRST, SECOND = 0, 1


def loaded(tmp_path, name="set", images=None, **arguments):
    return DistilledDataset.load(saved(tmp_path / name, images, **arguments))


def means(rows):
    return {(row["set"], row["labels"]): row["mean"] for row in rows}


def test_a_set_is_compared_with_its_controls(tmp_path):
    sets = [loaded(tmp_path, f"set{seed}", chosen(seed=seed)) for seed in (FIRST, SECOND)]
    rows = evaluate(sets, Digits(), RECIPE, {"mlp": MODEL}, networks=2)
    assert [(row["set"], row["labels"]) for row in rows] == [
        ("distilled", "hard"),
        ("random", "hard"),
        ("herding", "hard"),
    ]
    distilled, random, _ = rows
    assert [len(group) for group in distilled["accuracies"]] == [2, 2]
    assert [len(group) for group in random["accuracies"]] == [2]
    assert distilled["std_sets"] > 0
    assert random["std_sets"] is None
    assert all(0.05 < row["mean"] < 1 for row in rows)
    again = evaluate(sets, Digits(), RECIPE, {"mlp": MODEL}, networks=2)
    assert [row["accuracies"] for row in again] == [row["accuracies"] for row in rows]


def test_soft_labels_and_a_teacher_add_rows(tmp_path):
    sets = [loaded(tmp_path, images=soft())]
    told = []
    rows = evaluate(sets, Digits(), RECIPE, {"mlp": MODEL}, networks=1, teacher=MODEL(), advance=told.append)
    assert [(row["set"], row["labels"]) for row in rows] == [
        ("distilled", "hard"),
        ("distilled", "own"),
        ("distilled", "teacher"),
        ("random", "hard"),
        ("random", "teacher"),
        ("herding", "hard"),
        ("herding", "teacher"),
    ]
    assert told == [f"mlp, {row['set']}, {row['labels']} labels" for row in rows]
    accuracy = means(rows)
    # an untrained teacher teaches nothing
    assert accuracy["distilled", "teacher"] < accuracy["distilled", "hard"]


def test_a_teacher_teaches(tmp_path):
    data = Digits()
    source = ClassBatches(data)
    source.setup("fit")
    judge = Judge(data, replace(RECIPE, epochs=15, batch_size=64), "val")
    images = torch.cat([source.images_of(c) for c in range(10)])
    targets = torch.cat([torch.full((len(source.members[c]),), c) for c in range(10)])
    teacher = train(MODEL(), images, targets, judge.recipe, torch.Generator(), 10)
    assert judge.accuracy(teacher) > 0.9
    shuffled = chosen()
    shuffled = shuffled._replace(targets=shuffled.targets.flip(0))
    recipe = replace(RECIPE, epochs=40, temperature=4.0)
    sets = [loaded(tmp_path, images=shuffled)]
    accuracy = means(evaluate(sets, data, recipe, {"mlp": MODEL}, networks=1, split="val", teacher=teacher))
    assert accuracy["distilled", "hard"] < 0.2
    assert accuracy["distilled", "teacher"] > 0.3  # it does not look at the labels, which are wrong


def test_values_are_regressed(tmp_path):
    labels = soft()
    values = loaded(tmp_path, "values", labels._replace(targets=labels.targets / 3 - 0.1), soft="values")
    recipe = replace(RECIPE, epochs=60)
    accuracy = means(evaluate([values], Digits(), recipe, {"mlp": MODEL}, networks=1))
    assert accuracy["distilled", "own"] > 0.3


def test_random_images_differ_between_networks_and_herding_does_not(tmp_path):
    source = ClassBatches(Digits())
    source.setup("fit")
    controls = Controls(source, loaded(tmp_path), seed=0)
    assert not torch.equal(controls.of("random", 0)[0], controls.of("random", 1)[0])
    assert torch.equal(controls.of("random", 1)[0], controls.of("random", 1)[0])
    assert torch.equal(controls.of("herding", 0)[0], controls.of("herding", 1)[0])
    images, targets = controls.of("herding", 0)
    assert images.shape == (20, 1, 8, 8)
    assert targets.tolist() == [c for c in range(10) for _ in range(2)]


def test_the_splits_are_the_held_out_images_and_the_test_set():
    data = Digits()
    data.setup()
    for split, count in (("val", 144), ("test", 359)):
        batches = list(Judge(data, RECIPE, split).real())
        assert sum(len(y) for _, y in batches) == count
        assert abs(torch.cat([x for x, _ in batches]).mean()) < 0.1


def test_no_global_random_number_is_drawn(tmp_path):
    before = torch.get_rng_state()
    evaluate([loaded(tmp_path)], Digits(), replace(recipe_of("dsa"), epochs=2), {"mlp": MODEL}, networks=1)
    assert torch.equal(before, torch.get_rng_state())


def other(tmp_path, **card):
    made = loaded(tmp_path, "other")
    made.card.update(card)
    return made


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"images_per_class": 5}, "sets must be alike to be compared, but have images_per_class 2 and 5"),
        ({"labels": "logits"}, "sets must be alike to be compared, but have labels classes and logits"),
    ],
)
def test_sets_of_another_budget(tmp_path, card, message):
    with pytest.raises(InputError, match=message):
        evaluate([loaded(tmp_path), other(tmp_path, **card)], Digits(), RECIPE, {"mlp": MODEL})


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"num_classes": 5}, "data: Digits has num_classes 10, the set 5"),
        ({"input_shape": [1, 28, 28]}, r"data: Digits has input_shape \[1, 8, 8\], the set \[1, 28, 28\]"),
        ({"normalisation": {"mean": [0.0], "std": [1.0]}}, r"data: Digits is normalised by mean \(0.3053,\)"),
    ],
)
def test_data_of_another_kind(tmp_path, card, message):
    with pytest.raises(InputError, match=message):
        evaluate([other(tmp_path, **card)], Digits(), RECIPE, {"mlp": MODEL})


def test_learned_steps_are_replayed_on_all_sets(tmp_path):
    made = loaded(tmp_path, step_size=[0.1] * 6)
    with pytest.raises(
        InputError, match="recipe: the set has 6 step sizes, one a step, for which there is the recipe dd"
    ):
        evaluate([made], Digits(), recipe_of("mtt"), {"mlp": MODEL})
    rows = evaluate([made], Digits(), recipe_of("dd"), {"mlp": MODEL}, networks=1)
    assert [row["set"] for row in rows] == ["distilled", "random", "herding"]
    assert all(row["mean"] > 0.1 for row in rows)


def test_deviations_over_networks_and_over_sets_are_apart():
    found = summary([[0.5, 0.7], [0.8, 0.8]])
    assert found["mean"] == pytest.approx(0.7)
    assert found["std_sets"] == pytest.approx(0.02**0.5)
    assert found["std_networks"] == pytest.approx(0.1)
    assert summary([[0.5]])["std_networks"] is None


def test_the_report(tmp_path):
    row = {"model": "a", "set": "distilled", "labels": "hard", **summary([[0.5, 0.7], [0.8, 0.8]]), "seconds": 1.0}
    rows = [row, {**row, "model": "b", **summary([[0.25]])}]
    rows += [{**row, "model": model, "labels": labels} for model in "ab" for labels in ("own", "stored", "teacher")]
    write_report(tmp_path, rows, {"title": "What it is"})
    lines = (tmp_path / "report.md").read_text().splitlines()
    assert lines == [
        "What it is",
        "",
        "| set | labels | a | b |",
        "|---|---|---|---|",
        "| distilled | hard | 70.0 ± 10.0 (sets ± 14.1) | 25.0 |",
        *(f"| distilled | {labels}{2 * ' | 70.0 ± 10.0 (sets ± 14.1)'} |" for labels in ("own", "stored", "teacher")),
    ]
    assert table(rows) in (tmp_path / "report.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "report.md", "report.png"]


@pytest.mark.parametrize("side", [8, 28, 32])
@pytest.mark.parametrize("name", ["convnet", "mlp", "resnet18", "resnet18_bn", "vgg11", "vgg11_bn", "resnet8"])
def test_networks_by_name(name, side):
    network = architecture(name, (1, side, side), 7, width=8)()
    x = torch.randn(3, 1, side, side)
    logits = network(x)
    assert logits.shape == (3, 7)
    assert (logits.std(0) > 1e-6).all()  # it sees the images
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert bool(norms) == (name.endswith("_bn") or name == "resnet8")


def test_depth_of_the_convnet():
    for side, depth in ((28, 3), (32, 3), (64, 4), (128, 5)):
        assert len(architecture("convnet", (3, side, side), 10, width=4)().blocks) == depth
    with pytest.raises(InputError, match="models: 'resnet' is no network; accepted are convnet, mlp, resnet18"):
        architecture("resnet", (3, 32, 32), 10)


def distilled(tmp_path, steps=4, callbacks=()):
    network = partial(CondensationConvNet, (1, 8, 8), 10, 4, 2)
    module = DatasetDistiller(
        Pixels(1), DistributionMatching(), Fresh(network), optimizer=partial(torch.optim.SGD, lr=1.0)
    )
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_steps=steps,
        max_epochs=-1,
        default_root_dir=tmp_path,
        callbacks=list(callbacks),
    )
    trainer.fit(module, ClassBatches(Digits(limit=200), per_class=5))
    return module, trainer


class Recorded(L.Callback):
    def __init__(self):
        self.seen = {}

    def on_train_batch_end(self, trainer, *_):
        if "val/acc" in trainer.callback_metrics:
            self.seen[trainer.global_step] = float(trainer.callback_metrics["val/acc"])


def test_evaluation_during_a_fit(tmp_path):
    recorded = Recorded()
    evaluation = Evaluation(MODEL, every=3, epochs=4, networks=2)
    module, trainer = distilled(tmp_path, callbacks=[evaluation, recorded])
    assert sorted(recorded.seen) == [3, 4]
    assert 0 < recorded.seen[4] <= 1
    assert evaluation.accuracy(trainer, module) == pytest.approx(recorded.seen[4])
    alone, _ = distilled(tmp_path)
    assert torch.equal(alone.synthetic.images, module.synthetic.images)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every": 0}, "every must be at least 1, not 0"),
        ({"networks": 0}, "networks must be at least 1, not 0"),
        ({"recipe": "best"}, "recipe: 'best' given"),
        ({"epochs": 0}, "epochs must be at least 1"),
    ],
)
def test_evaluation_that_cannot_be(arguments, message):
    with pytest.raises(InputError, match=message):
        Evaluation(MODEL, **arguments)


def test_evaluation_of_what_is_no_set():
    with pytest.raises(InputError, match="callbacks: Evaluation needs a DatasetDistiller; LightningModule distils no"):
        Evaluation(MODEL).setup(None, L.LightningModule(), "fit")
