import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule

from lit_distill.data import CIFAR10, CIFAR100, MNIST, CutMix, Digits, FashionMNIST, GlobalBatchSampler, Mixup
from lit_distill.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")

SMALL = {"batch_size": 32, "limit": 100}


def batches(loader, data):
    return [data.on_after_batch_transfer(batch) for batch in loader]


def test_shapes_and_statistics_are_known_before_setup():
    for data in (Digits(), MNIST(), FashionMNIST(), CIFAR10(), CIFAR100()):
        channels, height, width = data.input_shape
        assert height == width
        assert len(data.mean) == len(data.std) == channels
        assert data.num_classes == (100 if isinstance(data, CIFAR100) else 10)


def test_batches_are_normalised_images_and_classes():
    data = Digits(batch_size=2000)
    data.setup()
    ((x, target),) = batches(data.train_dataloader(), data)
    assert (x.dtype, target.dtype) == (torch.float32, torch.int64)
    assert x.shape == (len(target), 1, 8, 8)
    ((held_out, _),) = batches(data.val_dataloader(), data)
    everything = torch.cat([x, held_out])
    torch.testing.assert_close(everything.mean(), torch.tensor(0.0), atol=1e-3, rtol=0)
    torch.testing.assert_close(everything.std(correction=0), torch.tensor(1.0), atol=1e-3, rtol=0)


@pytest.mark.parametrize("val_fraction", [0.1, 0.37, 0.5])
def test_validation_is_held_out_of_training(val_fraction):
    data = Digits(val_fraction=val_fraction)
    data.setup("fit")
    train, val = data.parts["train"], data.parts["val"]
    assert len(val) == round(val_fraction * 1438)
    together = torch.cat([train.positions, val.positions]).sort().values
    assert torch.equal(together, torch.arange(1438))
    share = train.images.targets.bincount() * val_fraction
    assert (train.images.targets[val.positions].bincount() - share).abs().max() <= 1


def test_split_depends_on_its_own_seed_alone():
    def held_out(**kwargs):
        data = Digits(**kwargs)
        data.setup("fit")
        return data.parts["val"].positions.tolist()

    assert held_out(seed=1, batch_size=3, limit=50) == held_out()
    assert held_out(split_seed=1) != held_out()


def test_limit_is_stratified_and_nested():
    sizes = {}
    for limit in (20, 100, None):
        data = Digits(limit=limit)
        data.setup("fit")
        sizes[limit] = data.parts["train"].positions
    assert [len(sizes[limit]) for limit in (20, 100, None)] == [20, 100, 1438 - 144]
    assert set(sizes[20].tolist()) < set(sizes[100].tolist()) < set(sizes[None].tolist())
    assert (data.parts["train"].images.targets[sizes[100]].bincount() - 10).abs().max() <= 1


def test_stages_read_what_they_need():
    for stage, parts in (("fit", {"train", "val"}), ("test", {"test"}), ("predict", {"test"})):
        data = Digits()
        data.setup(stage)
        assert set(data.parts) == parts


def test_index_is_the_position_in_the_full_training_set():
    data = Digits(index=True, **SMALL)
    data.setup()
    images = data.parts["train"].images
    for loader in (data.train_dataloader(), data.val_dataloader()):
        for x, target, index in batches(loader, data):
            assert torch.equal(target, images.targets[index])
            torch.testing.assert_close(x * data.std[0] + data.mean[0], images.x[index] / 255)
    assert all(len(batch) == 2 for batch in batches(data.test_dataloader(), data))


def fit(recorder, trainer, data, **kwargs):
    module = recorder()
    trainer(**kwargs).fit(module, data)
    return module.batches


def by_index(batches):
    return {int(i): x for x, _, index in batches for i, x in zip(index, x, strict=True)}


def test_only_training_images_are_augmented(recorder, trainer):
    plain = fit(recorder, trainer, Digits(index=True, **SMALL))
    augmented = fit(recorder, trainer, Digits(index=True, augment=True, **SMALL))
    before, after = by_index(plain["train"]), by_index(augmented["train"])
    changed = [i for i in before if not torch.equal(before[i], after[i])]
    assert len(changed) > 50  # one place of nine, and blank borders, change nothing
    for ours, theirs in zip(plain["val"], augmented["val"], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_augmentation_depends_on_seed_epoch_and_sample_alone(recorder, trainer):
    def epochs(batch_size, seed=0, **kwargs):
        data = Digits(index=True, augment=True, limit=64, batch_size=batch_size, seed=seed)
        seen = fit(recorder, trainer, data, max_epochs=2, **kwargs)["train"]
        return by_index(seen[: len(seen) // 2]), by_index(seen[len(seen) // 2 :])

    def differing(one, other):
        return sum(not torch.equal(one[i], other[i]) for i in one)

    first, second = epochs(16)
    assert differing(first, second) > 30
    for again in (epochs(16), epochs(7)):
        assert differing(first, again[0]) == differing(second, again[1]) == 0
    assert differing(first, epochs(16, seed=1)[0]) > 30


def test_processes_together_see_what_one_sees(recorder, trainer, monkeypatch):
    def seen(rank=None, **kwargs):
        data = Digits(index=True, augment=True, mix=Mixup(), limit=100, **kwargs)
        if rank is not None:
            shares = {"num_replicas": 2, "rank": rank}
            monkeypatch.setattr("lightning.pytorch.Trainer.distributed_sampler_kwargs", shares)
        return fit(recorder, trainer, data)["train"]

    one = seen(batch_size=32)
    two = [seen(batch_size=16, rank=rank) for rank in (0, 1)]
    assert len(one) == len(two[0]) == len(two[1]) == 4
    for whole, *shares in zip(one, *two, strict=True):
        for i in range(3):
            assert torch.equal(torch.cat([share[i] for share in shares]), whole[i])


@pytest.mark.parametrize("mix", [Mixup(), CutMix()])
def test_only_training_batches_are_mixed(mix, recorder, trainer):
    data = Digits(mix=mix, **SMALL)
    seen = fit(recorder, trainer, data)
    for x, target in seen["train"]:
        assert target.shape == (len(x), 10)
        torch.testing.assert_close(target.sum(1), torch.ones(len(x)))
    assert any((target.max(1).values < 1).any() for _, target in seen["train"])
    assert all(target.dtype == torch.int64 for _, target in seen["val"])
    again = fit(recorder, trainer, Digits(mix=mix, **SMALL))
    assert all(torch.equal(a[1], b[1]) for a, b in zip(seen["train"], again["train"], strict=True))


def test_without_a_fitting_trainer_nothing_is_augmented_or_mixed(recorder, trainer):
    data = Digits(augment=True, mix=Mixup(), index=True, **SMALL)
    data.setup("fit")
    module = recorder()
    runner = trainer()
    data.trainer = runner
    runner.predict(module, data.train_dataloader())
    for raw in module.batches["predict"]:
        x, target, index = data.on_after_batch_transfer(raw)
        assert target.dtype == torch.int64
        torch.testing.assert_close(x * data.std[0] + data.mean[0], data.parts["train"].images.x[index] / 255)


def test_every_sample_is_predicted_and_tested_once_in_order(recorder, trainer):
    data, module = Digits(batch_size=50), recorder()
    trainer().predict(module, data)
    trainer().test(module, data, verbose=False)
    for stage in ("predict", "test"):
        targets = torch.cat([target for _, target in module.batches[stage]])
        assert torch.equal(targets, data.parts["test"].images.targets)


def test_overfit_batches_repeats_the_same_batches(recorder, trainer):
    seen = fit(recorder, trainer, Digits(index=True, **SMALL), overfit_batches=2, max_epochs=3)["train"]
    epochs = [[batch[2].tolist() for batch in seen[i : i + 2]] for i in (0, 2, 4)]
    assert epochs[0] == epochs[1] == epochs[2]


@pytest.mark.parametrize(("precision", "dtype"), [("64-true", torch.float64), ("bf16-true", torch.bfloat16)])
def test_images_have_the_precision_of_the_trainer(precision, dtype, recorder, trainer):
    seen = fit(recorder, trainer, Digits(mix=Mixup(), **SMALL), precision=precision)
    assert {x.dtype for stage in ("train", "val") for x, _ in seen[stage]} == {dtype}


def test_global_generator_is_not_touched():
    data = Digits(augment=True, mix=Mixup(), **SMALL)
    before = torch.get_rng_state()
    data.setup()
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        batches(loader, data)
    assert torch.equal(torch.get_rng_state(), before)


def test_workers_change_nothing():
    def seen(num_workers):
        data = Digits(num_workers=num_workers, index=True, **SMALL)
        data.setup("fit")
        loader = data.train_dataloader()
        loader.sampler.set_epoch(2)
        return batches(loader, data)

    for ours, theirs in zip(seen(0), seen(2), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_loaders_hold_samplers_that_know_the_trainer_s_processes():
    data = Digits()
    data.setup("fit")
    sampler = data.train_dataloader().sampler
    assert isinstance(sampler, GlobalBatchSampler)
    assert (sampler.num_replicas, sampler.rank) == (1, 0)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"batch_size": 0}, r"^batch_size: 0 is below 1$"),
        ({"num_workers": -1}, r"^num_workers: -1 is below 0$"),
        ({"limit": 0}, r"^limit: 0 is below 1$"),
        ({"val_fraction": 0.0}, r"^val_fraction: 0.0 is not in \(0, 0.5\]$"),
        ({"val_fraction": 0.51}, r"^val_fraction: 0.51 is not in \(0, 0.5\]$"),
    ],
)
def test_arguments_are_checked(argument, message):
    with pytest.raises(InputError, match=message):
        Digits(**argument)


@pytest.mark.parametrize("name", ["Digits", "MNIST", "FashionMNIST", "CIFAR10", "CIFAR100", "ImageFolder"])
def test_every_argument_is_a_key(name, image_folder, monkeypatch):
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # a newer name of instantiate_classes
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data")
    config = {
        "class_path": name,
        "init_args": {
            "batch_size": 8,
            "seed": 3,
            "limit": 20,
            "augment": False,
            "mix": {"class_path": "Mixup", "init_args": {"alpha": 0.2}},
        },
    }
    if name != "Digits":
        config["init_args"]["root"] = str(image_folder())
    data = parser.instantiate_classes(parser.parse_object({"data": config})).data
    assert type(data).__name__ == name
    assert (data.batch_size, data.seed, data.limit, data.mix.alpha) == (8, 3, 20, 0.2)
    with pytest.raises(Exception, match="batch_sise"):
        parser.parse_object({"data": {"class_path": name, "init_args": {"batch_sise": 8}}})
