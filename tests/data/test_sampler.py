import pytest
from torch.utils.data import DistributedSampler

from lit_distill.data.sampler import GlobalBatchSampler, SequentialBatchSampler
from lit_distill.errors import InputError

SHAPES = [(64, 8, 1), (67, 8, 2), (66, 8, 2), (65, 8, 2), (64, 5, 3), (31, 4, 4), (7, 8, 2), (4, 1, 4)]


def ranks(kind, size, batch_size, processes):
    return [kind(size, batch_size, processes, rank, seed=3) for rank in range(processes)]


def samples(batches):
    return [sample for batch in batches for sample in batch.samples]


@pytest.mark.parametrize(("size", "batch_size", "processes"), SHAPES)
def test_processes_together_see_what_one_sees(size, batch_size, processes):
    several = [list(sampler) for sampler in ranks(GlobalBatchSampler, size, batch_size, processes)]
    one = list(GlobalBatchSampler(size, batch_size * processes, seed=3))
    for shares, whole in zip(zip(*several, strict=True), one, strict=False):
        assert samples(shares) == whole.samples
        assert {share.number for share in shares} == {whole.number}
        sizes = [len(share.samples) for share in shares]
        assert max(sizes) - min(sizes) <= 1
    rest = size % (batch_size * processes)
    dropped = rest if rest < processes else 0
    assert sum(len(samples(batches)) for batches in several) == size - dropped


@pytest.mark.parametrize(("size", "batch_size", "processes"), SHAPES)
def test_evaluation_sees_every_sample_once_in_equally_many_batches(size, batch_size, processes):
    several = ranks(SequentialBatchSampler, size, batch_size, processes)
    assert len({len(sampler) for sampler in several}) == 1
    batches = [list(sampler) for sampler in several]
    assert all(len(b) == len(sampler) for b, sampler in zip(batches, several, strict=True))
    assert all(batch.samples for b in batches for batch in b)
    together = [sample for shares in zip(*batches, strict=True) for sample in samples(shares)]
    assert together == list(range(size))


def test_length_is_the_number_of_batches():
    for kind in (GlobalBatchSampler, SequentialBatchSampler):
        for size, batch_size, processes in SHAPES:
            for sampler in ranks(kind, size, batch_size, processes):
                assert len(sampler) == len(list(sampler))


def test_epochs_have_orders_of_their_own_and_keep_them():
    sampler = GlobalBatchSampler(50, 8, seed=1)
    first = samples(sampler)
    assert samples(sampler) == first
    sampler.set_epoch(1)
    second = list(sampler)
    assert samples(second) != first
    assert sorted(samples(second)) == sorted(first)
    assert {batch.epoch for batch in second} == {1}
    assert samples(GlobalBatchSampler(50, 8, seed=2)) != first


def test_starting_in_the_middle_gives_the_rest():
    sampler = GlobalBatchSampler(50, 8)
    whole = list(sampler)
    sampler.start = 3
    assert list(sampler) == whole[3:]
    assert len(sampler) == len(whole)


@pytest.mark.parametrize("kind", [GlobalBatchSampler, SequentialBatchSampler])
def test_more_processes_than_samples_is_an_error(kind):
    with pytest.raises(InputError, match=r"^devices: 4 processes cannot share 3 samples"):
        kind(3, 1, num_replicas=4)


def test_lightning_takes_it_for_distributed():
    assert isinstance(GlobalBatchSampler(10, 2), DistributedSampler)
