import pytest
import torch

from lit_distill.data.splits import stratified_order


@pytest.mark.parametrize("counts", [[50] * 10, [100, 200, 300], [10, 500, 90]])
def test_every_prefix_has_the_proportions_of_the_whole(counts):
    targets = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    order = stratified_order(targets, seed=0)
    assert torch.equal(order.sort().values, torch.arange(len(targets)))
    for size in range(1, len(targets), 7):
        share = torch.tensor(counts) * size / len(targets)
        found = targets[order[:size]].bincount(minlength=len(counts))
        assert (found - share).abs().max() <= 1


def test_order_is_a_function_of_the_seed():
    targets = torch.arange(100) % 4
    assert torch.equal(stratified_order(targets, 0), stratified_order(targets, 0))
    assert not torch.equal(stratified_order(targets, 0), stratified_order(targets, 1))


def test_classes_without_samples_are_no_trouble():
    targets = torch.tensor([0, 0, 5, 5])
    assert sorted(targets[stratified_order(targets, 0)[:2]].tolist()) == [0, 5]
