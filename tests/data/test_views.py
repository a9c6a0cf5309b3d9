"""Batches of two views: the images as ever, and then a strong view of each."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lit_distill.data import MNIST, Digits, FashionMNIST, ImageFolder, Mixup
from lit_distill.data.sampler import BatchKey, GlobalBatchSampler
from lit_distill.errors import InputError

from .test_resume import BATCHES, SaveEverywhere

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")


@pytest.fixture
def fit(recorder, trainer):
    def fit(batch_size=32, checkpoint=None, callbacks=(), precision="32-true", num_workers=0, **kwargs):
        given = {"limit": 70, "index": True, "strong_view": True, **kwargs}
        data, module = Digits(batch_size=batch_size, num_workers=num_workers, **given), recorder()
        runner = trainer(max_epochs=2, callbacks=list(callbacks), precision=precision)
        runner.fit(module, data, ckpt_path=checkpoint)
        return module.batches

    return fit


def by_index(batches):
    """Both views of every sample."""
    views = {}
    for x, _, index in batches:
        (ours, again), (weak, strong) = index.chunk(2), x.chunk(2)
        assert torch.equal(ours, again)
        views |= {int(i): pair for i, *pair in zip(ours, weak, strong, strict=True)}
    return views


def equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    return all(torch.equal(a, b) for key in ours for a, b in zip(ours[key], theirs[key], strict=True))


@pytest.mark.parametrize("augment", [True, False])
def test_first_half_is_the_ordinary_batch(fit, augment):
    for both, one in zip(fit(augment=augment)["train"], fit(augment=augment, strong_view=False)["train"], strict=True):
        size = len(one[0])
        assert len(both[0]) == 2 * size
        assert torch.equal(both[0][:size], one[0])
        for twice, once in zip(both[1:], one[1:], strict=True):
            assert torch.equal(twice, torch.cat([once, once]))


@pytest.mark.parametrize("name", [MNIST, FashionMNIST])
def test_first_half_is_the_ordinary_batch_of_other_sets(name, mnist_folder):
    root = str(mnist_folder())

    def batch(**kwargs):
        data = name(root=root, augment=True, **kwargs)
        data.setup("fit")
        raw = replace(data.parts["train"], training=True)[BatchKey(list(range(20)), 1, 0)]
        return data.on_after_batch_transfer(raw)[0]

    ordinary, (weak, strong) = batch(), batch(strong_view=True).chunk(2)
    assert torch.equal(weak, ordinary)
    assert not any(torch.equal(one, other) for one, other in zip(weak, strong, strict=True))


def test_strong_views_depend_on_seed_epoch_and_sample_alone(fit):
    def epochs(batch_size, **kwargs):
        seen = fit(batch_size=batch_size, **kwargs)["train"]
        return by_index(seen[: len(seen) // 2]), by_index(seen[len(seen) // 2 :])

    def changed(ours, theirs):
        return [key for key in ours if not torch.equal(ours[key][1], theirs[key][1])]

    first, second = epochs(32)
    assert len(first) == 70
    for again in (epochs(32), epochs(7, augment=False), epochs(1), epochs(32, num_workers=2)):
        assert equal(first, again[0])
        assert equal(second, again[1])
    for other in (second, epochs(32, seed=1)[0]):
        assert len(changed(first, other)) == 70
    assert changed(first, epochs(32, augment=True)[0]) == []
    assert all(not torch.equal(weak, strong) for weak, strong in first.values())


def test_processes_together_see_what_one_sees(fit, monkeypatch):
    def seen(rank=None, **kwargs):
        if rank is not None:
            shares = {"num_replicas": 2, "rank": rank}
            monkeypatch.setattr("lightning.pytorch.Trainer.distributed_sampler_kwargs", shares)
        return fit(augment=True, **kwargs)["train"]

    one = seen(batch_size=32)
    two = [seen(batch_size=16, rank=rank) for rank in (0, 1)]
    for whole, *shares in zip(one, *two, strict=True):
        for i in range(3):
            halves = zip(*(share[i].chunk(2) for share in shares), strict=True)  # all weak views, then all strong ones
            assert torch.equal(torch.cat([torch.cat(half) for half in halves]), whole[i])


def test_an_interrupted_run_sees_what_an_uninterrupted_one_sees(fit, tmp_path):
    saver = SaveEverywhere(tmp_path)
    whole = fit(augment=True, callbacks=[saver])["train"]
    assert len(whole) == 2 * BATCHES
    for seen, path in saver.saved:
        rest = fit(augment=True, checkpoint=path)["train"]
        assert len(rest) == len(whole) - seen
        for ours, theirs in zip(rest, whole[seen:], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_only_batches_to_train_on_have_two_views(fit, recorder, trainer):
    seen = fit()
    assert {len(x) for x, *_ in seen["train"]} == {64, 12}
    for both, one in zip(seen["val"], fit(strong_view=False)["val"], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(both, one, strict=True))
    data, module = Digits(strong_view=True, limit=70), recorder()
    trainer().test(module, data, verbose=False)
    trainer().predict(module, data)
    assert all(
        sum(len(x) for x, _ in module.batches[stage]) == len(data.parts["test"]) for stage in ("test", "predict")
    )
    data.setup("fit")
    assert sum(len(data.on_after_batch_transfer(batch)[0]) for batch in data.train_dataloader()) == 70


def test_pixels_stay_between_black_and_white_and_images_stay_like_themselves(fit):
    views = by_index(fit(limit=None)["train"])
    weak, strong = (torch.stack(view) * Digits.std[0] + Digits.mean[0] for view in zip(*views.values(), strict=True))
    assert strong.isfinite().all()
    assert strong.min() > -1e-6
    assert strong.max() < 1 + 1e-6
    own, strange = (
        torch.cosine_similarity(*(x.flatten(1) - x.mean(0).flatten() for x in pair))
        for pair in ((weak, strong), (weak.roll(1, 0), strong))
    )
    assert (own > strange).float().mean() > 0.75  # one half by chance


def test_views_have_the_precision_of_the_trainer(fit):
    seen = fit(precision="bf16-true")
    assert {x.dtype for stage in ("train", "val") for x, *_ in seen[stage]} == {torch.bfloat16}


def test_global_generator_is_not_touched():
    data = Digits(strong_view=True, limit=70)
    data.setup("fit")
    before = torch.get_rng_state()
    data.on_after_batch_transfer(replace(data.parts["train"], training=True)[BatchKey([0, 1], 0, 0)])
    assert torch.equal(torch.get_rng_state(), before)


def test_two_views_are_not_mixed():
    with pytest.raises(InputError, match=r"^strong_view: true does not go with mix \(Mixup\); leave one of them out$"):
        Digits(strong_view=True, mix=Mixup())


@pytest.mark.parametrize("augment", [True, False])
def test_files_have_two_views(image_folder, augment):
    root = image_folder()

    def batches(seed=0, epoch=0, batch_size=5, **kwargs):
        given = {"image_size": 16, "augment": augment, "index": True, "seed": seed, "batch_size": batch_size, **kwargs}
        data = ImageFolder(root=str(root), **given)
        data.setup("fit")
        loader = data.loader(replace(data.parts["train"], training=True), GlobalBatchSampler)
        loader.sampler.set_epoch(epoch)
        return [data.on_after_batch_transfer(batch) for batch in loader]

    both = batches(strong_view=True)
    for (x, *twice), (weak, *once) in zip(both, batches(), strict=True):
        assert torch.equal(x[: len(weak)], weak)
        assert all(torch.equal(two, torch.cat([one, one])) for two, one in zip(twice, once, strict=True))
    first = by_index(both)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    assert equal(first, by_index(batches(strong_view=True, batch_size=3)))
    assert equal(first, by_index(batches(strong_view=True, batch_size=2, num_workers=2)))
    assert (torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()) == (before[0].tolist(), before[1])
    for other in (batches(strong_view=True, epoch=1), batches(strong_view=True, seed=1)):
        changed = by_index(other)
        assert not any(torch.equal(first[i][1], changed[i][1]) for i in first)
    for weak, strong in first.values():
        assert not torch.equal(weak, strong)
        assert (strong == 0).all(0).sum() >= 0.02 * 16 * 16 - 4  # the rectangle, filled with the mean


def test_files_to_evaluate_have_one_view(image_folder):
    data = ImageFolder(root=str(image_folder()), image_size=16, strong_view=True, val_fraction=0.5)
    data.setup()
    for part in ("val", "test"):
        x = data.parts[part][BatchKey([0, 1], 0, 0)].x
        assert x.shape == (2, 3, 16, 16)
