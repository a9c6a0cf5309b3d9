"""Mixtures of a share of the samples, and mixtures beside the images."""

import random
from dataclasses import replace

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule
from torch.nn.functional import one_hot

from lit_distill.data import CutMix, Digits, GlobalBatchSampler, Mix, Mixup, MixupOrCutMix, PartialMix, WithMixtures
from lit_distill.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")

MIXES = [Mixup(0.3), CutMix(1.0), MixupOrCutMix()]


class Blank(Mix):
    """Makes zeros of every image, so that it shows which were mixed."""

    def mix(self, x, other, rng):
        return torch.zeros_like(x), 0.0


def batches(data, epoch=0, start=0, processes=(1, 0)):
    """Batches as one process sees them in a fit, from some number of the epoch on."""
    data.setup("fit")
    part = replace(data.parts["train"], training=True)
    sampler = GlobalBatchSampler(len(part), data.batch_size, *processes, seed=data.seed)
    sampler.set_epoch(epoch)
    sampler.start = start
    return [data.on_after_batch_transfer(part[key]) for key in sampler]


def assert_same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def digits(mix, **kwargs):
    return Digits(**{"mix": mix, "index": True, "augment": True, "limit": 100, "batch_size": 32} | kwargs)


@pytest.mark.parametrize("mixture", MIXES)
def test_a_share_of_1_is_the_mixture_bit_for_bit(mixture):
    assert_same(batches(digits(PartialMix(mixture, 1.0))), batches(digits(mixture)))


@pytest.mark.parametrize("mixture", MIXES)
def test_a_share_of_0_leaves_all_images(mixture):
    for (x, soft, _), (plain, target, _) in zip(
        batches(digits(PartialMix(mixture, 0.0))), batches(digits(None)), strict=True
    ):
        assert torch.equal(x, plain)
        assert torch.equal(soft, one_hot(target, 10).float())


@pytest.mark.parametrize("mixture", MIXES)
def test_every_sample_is_mixed_as_the_mixture_does_or_not_at_all(mixture):
    some, all_, none = (
        torch.cat([torch.cat([x.flatten(1), soft], 1) for x, soft, _ in batches(digits(mix))])
        for mix in (PartialMix(mixture, 0.4), mixture, PartialMix(mixture, 0.0))
    )
    as_all, as_none = ((some == other).all(1) for other in (all_, none))  # image and label
    assert (as_all | as_none).all()
    assert 10 < (~as_none).sum() < 90


def blanked(share, epoch=0, **kwargs):
    """Which samples are mixed."""
    return {
        int(index): not bool(image.any())
        for x, _, indices in batches(Digits(mix=PartialMix(Blank(), share), index=True, **kwargs), epoch)
        for image, index in zip(x, indices, strict=True)
    }


@pytest.mark.parametrize("share", [0.1, 0.41, 0.9])
def test_the_share_is_that_of_the_samples_on_average(share):
    mixed = [blanked(share, epoch) for epoch in range(4)]
    number, size = sum(sum(epoch.values()) for epoch in mixed), sum(len(epoch) for epoch in mixed)
    assert abs(number / size - share) < 5 * (share * (1 - share) / size) ** 0.5


def test_the_choice_depends_on_seed_epoch_and_sample_alone():
    first = blanked(0.5, batch_size=16)
    assert blanked(0.5, batch_size=7) == first
    assert blanked(0.5, batch_size=16, augment=True) == first
    assert blanked(0.5, epoch=1) != first
    assert blanked(0.5, seed=1) != first
    assert {i for i, mixed in blanked(0.2).items() if mixed} < {i for i, mixed in first.items() if mixed}


@pytest.mark.parametrize("mix", [PartialMix(Mixup(), 0.5), PartialMix(CutMix(), 0.5)])
def test_processes_together_see_what_one_sees(mix):
    one = batches(digits(mix))
    two = [batches(digits(mix, batch_size=16), processes=(2, rank)) for rank in (0, 1)]
    assert_same([[torch.cat(x) for x in zip(*shares, strict=True)] for shares in zip(*two, strict=True)], one)


@pytest.mark.parametrize("count", [1, 3])
def test_processes_together_see_the_same_mixtures_beside_the_images(count):
    mix = WithMixtures(PartialMix(MixupOrCutMix(), 0.5), count)
    one = batches(digits(mix))
    two = [batches(digits(mix, batch_size=16), processes=(2, rank)) for rank in (0, 1)]
    for whole, *shares in zip(one, *two, strict=True):
        for ours, theirs in zip(whole, zip(*shares, strict=True), strict=True):
            views = [share.unflatten(0, (1 + count, -1)) for share in theirs]
            assert torch.equal(torch.cat(views, 1).flatten(0, 1), ours)


@pytest.mark.parametrize("mix", [PartialMix(CutMix(), 0.5), WithMixtures(CutMix(), 2)])
def test_an_epoch_goes_on_in_its_middle(mix):
    assert_same(batches(digits(mix), epoch=3)[2:], batches(digits(mix), epoch=3, start=2))


@pytest.mark.parametrize("mixture", MIXES)
def test_images_come_first_and_then_mixtures_of_them(mixture):
    data, plain = digits(WithMixtures(mixture, 2)), batches(digits(None))
    once = batches(digits(mixture))
    for (x, soft, index), (images, target, own), (mixed, labels, _) in zip(batches(data), plain, once, strict=True):
        first, second, third = x.chunk(3)
        assert torch.equal(first, images)
        assert torch.equal(second, mixed)
        assert not torch.equal(third, second)
        assert torch.equal(soft[: 2 * len(own)], torch.cat([one_hot(target, 10).float(), labels]))
        torch.testing.assert_close(soft.sum(1), torch.ones(len(x)))
        assert torch.equal(index, own.repeat(3))


def test_a_trainer_gets_them_in_training_alone(recorder, trainer):
    module = recorder()
    trainer().fit(module, digits(WithMixtures(PartialMix(CutMix(), 0.5), 2)))
    assert [len(x) for x, _, _ in module.batches["train"]] == [96, 96, 96, 12]
    assert all(len(x) == len(target) <= 32 and target.ndim == 1 for x, target, _ in module.batches["val"])


def test_both_are_written_in_yaml():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--data", type=LightningDataModule)
    data = parser.instantiate(
        parser.parse_string(
            """
            data:
              class_path: lit_distill.data.Digits
              init_args:
                mix:
                  class_path: WithMixtures
                  init_args:
                    count: 2
                    mixture: {class_path: PartialMix, init_args: {share: 0.25, mixture: {class_path: Mixup}}}
            """
        )
    ).data
    assert (data.mix.count, data.mix.mixture.share, data.mix.mixture.mixture.alpha) == (2, 0.25, 1.0)


def test_bad_input():
    with pytest.raises(InputError, match=r"^share: 1.5 is not in \[0, 1\]$"):
        PartialMix(Mixup(), 1.5)
    with pytest.raises(InputError, match=r"^count: 0 is below 1$"):
        WithMixtures(Mixup(), 0)
    with pytest.raises(InputError, match=r"^draw: PartialMix got none"):
        PartialMix(Mixup())(torch.zeros(2, 1, 1, 1), torch.tensor([0, 1]), 2, random.Random(0))
