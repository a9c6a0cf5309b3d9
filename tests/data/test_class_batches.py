import pytest
import torch

from lit_distill.data import ClassBatches, Digits
from lit_distill.data.class_batches import ClassSampler
from lit_distill.errors import InputError

SIZES = [7, 4, 12]


def members():
    positions = torch.arange(sum(SIZES))
    return list(positions.split(SIZES))


def batches(per_class, processes=1, rank=0, epoch=0, start=0):
    sampler = ClassSampler(members(), per_class, processes, rank, seed=3)
    sampler.set_epoch(epoch)
    sampler.start = start
    return list(sampler)


@pytest.mark.parametrize("per_class", [1, 3, 5, 20])
def test_batches_hold_equally_many_of_each_class(per_class):
    of_class = torch.cat([torch.full((size,), c) for c, size in enumerate(SIZES)])
    for batch in batches(per_class):
        assert of_class[torch.tensor(batch.samples)].tolist() == [c for c in range(3) for _ in range(per_class)]


def test_no_image_comes_again_before_all_of_its_class_have():
    shown = [batch.samples for batch in batches(per_class=2)]
    for c, size in enumerate(SIZES):
        of_class = [sample for samples in shown for sample in samples[2 * c : 2 * c + 2]]
        for begin in range(0, len(of_class), size):
            part = of_class[begin : begin + size]
            assert len(set(part)) == len(part)


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_classes(processes):
    several = [batches(4, processes, rank) for rank in range(processes)]
    for shares, whole in zip(zip(*several, strict=True), batches(4), strict=True):
        for rank, share in enumerate(shares):
            mine = range(rank, 3, processes)
            assert share.samples == [s for c in mine for s in whole.samples[4 * c : 4 * c + 4]]


def test_order_depends_on_seed_and_epoch_alone():
    assert batches(2) == batches(2)
    assert batches(2, epoch=1)[0].samples != batches(2)[0].samples
    assert batches(2, start=2) == batches(2)[2:]


def test_more_processes_than_classes():
    with pytest.raises(InputError, match="devices: 4 processes cannot share 3 classes"):
        ClassSampler(members(), 2, num_replicas=4)


def test_of_digits():
    data = ClassBatches(Digits(augment=True), per_class=5)
    data.setup("fit")
    (raw, *_) = data.train_dataloader()
    x, target = data.on_after_batch_transfer(raw)
    assert x.shape == (50, *data.input_shape)
    assert target.tolist() == [c for c in range(10) for _ in range(5)]
    for c in range(10):
        real = data.images_of(c)
        assert all((image == real).flatten(1).all(1).any() for image in x[5 * c : 5 * c + 5])
    held_out = set(data.data.parts["val"].positions.tolist())
    positions = data.data.parts["train"].positions
    assert not held_out & {int(p) for m in data.members for p in positions[m]}


def test_bad_arguments():
    with pytest.raises(InputError, match="per_class: 0 is below 1"):
        ClassBatches(Digits(), per_class=0)
    data = ClassBatches(Digits(limit=3))
    with pytest.raises(InputError, match="data: no training image of class"):
        data.setup("fit")
