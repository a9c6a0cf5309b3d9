import math

import pytest
import torch

from lit_distill.data.counter_rng import Draw, bits, key, permutation, uniform


def split_mix_64(state, count):
    """The published generator, in Python's unbounded integers."""
    word = (1 << 64) - 1
    for _ in range(count):
        state = state + 0x9E3779B97F4A7C15 & word
        z = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & word
        z = (z ^ z >> 27) * 0x94D049BB133111EB & word
        yield z ^ z >> 31


@pytest.mark.parametrize("state", [0, 1, 2**63, 2**64 - 1, key(1, 2, 3)])
def test_bits_are_split_mix_64(state):
    words = [word % (1 << 64) for word in bits(state, torch.arange(50)).tolist()]
    assert words == list(split_mix_64(state, 50))


def test_uniform_is_uniform():
    u = uniform(0, 0, Draw.CROP_ROW, torch.arange(100_000)).double()
    assert u.min() >= 0
    assert u.max() < 1
    # five standard errors each
    assert abs(u.mean() - 0.5) < 5 * math.sqrt(1 / 12 / len(u))
    assert abs(u.var() - 1 / 12) < 5 * math.sqrt(1 / 180 / len(u))
    bins = (u * 64).long().bincount(minlength=64).double()
    chi_squared = (bins - len(u) / 64).square().sum() / (len(u) / 64)
    assert abs(chi_squared - 63) < 5 * math.sqrt(2 * 63)


@pytest.mark.parametrize(
    "other", [(1, 0, Draw.FLIP, 0), (0, 1, Draw.FLIP, 0), (0, 0, Draw.CROP_ROW, 0), (0, 0, Draw.FLIP, 1)]
)
def test_streams_and_neighbours_are_uncorrelated(other):
    seed, epoch, draw, shift = other
    index = torch.arange(100_000)
    pair = torch.stack([uniform(0, 0, Draw.FLIP, index), uniform(seed, epoch, draw, index + shift)])
    assert abs(torch.corrcoef(pair.double())[0, 1]) < 5 / math.sqrt(len(index))


def test_numbers_belong_to_samples_not_to_batches():
    index = torch.arange(64)
    together = uniform(5, 2, Draw.FLIP, index)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(uniform(5, 2, Draw.FLIP, order), together[order])
    parts = [uniform(5, 2, Draw.FLIP, part) for part in index.split(7)]
    assert torch.equal(torch.cat(parts), together)
    assert torch.equal(uniform(5, 2, Draw.FLIP, index.view(8, 8)), together.view(8, 8))


def test_permutation_holds_every_number_once_and_every_epoch_has_its_own():
    orders = [permutation(3, epoch, Draw.SHUFFLE, 1000) for epoch in range(3)]
    for order in orders:
        assert torch.equal(order.sort().values, torch.arange(1000))
    assert not torch.equal(orders[0], orders[1])
    assert torch.equal(orders[2], permutation(3, 2, Draw.SHUFFLE, 1000))


def test_key_depends_on_every_word_and_its_place():
    words = [(), (0,), (0, 0), (0, 1), (1, 0), (-1, 0), (2**64, 1, 0)]
    assert len({key(*each) for each in words}) == len(words)


def test_global_generator_is_not_touched():
    before = torch.get_rng_state()
    uniform(0, 0, Draw.FLIP, torch.arange(10))
    permutation(0, 0, Draw.SHUFFLE, 10)
    assert torch.equal(torch.get_rng_state(), before)
