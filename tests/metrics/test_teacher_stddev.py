import copy

import pytest
import torch

from lit_distill.errors import InputError
from lit_distill.metrics import TeacherStddev
from lit_distill.metrics.teacher_stddev import stddev_of_means


@pytest.fixture
def logits():
    return 3 * torch.randn(1000, 5, generator=torch.Generator().manual_seed(0))


def naive(logits, group):
    """All probabilities kept, as the authors do."""
    whole = len(logits) // group * group
    means = logits[:whole].double().softmax(-1).view(-1, group, logits.shape[-1]).mean(1)
    return means.std(0).mean().float()


def measured(batches, group, **kwargs):
    metric = TeacherStddev(batches[0].shape[-1], group, **kwargs)
    for batch in batches:
        metric.update(batch)
    return metric


@pytest.mark.parametrize("group", [1, 7, 64, 333])
@pytest.mark.parametrize("batch", [1, 10, 64, 1000])
def test_equals_the_naive_value_whatever_the_batches(logits, group, batch):
    value = measured(logits.split(batch), group).compute()
    torch.testing.assert_close(value, naive(logits, group))
    whole = logits[: len(logits) // group * group].softmax(-1).view(-1, group, 5).mean(1)
    torch.testing.assert_close(value, stddev_of_means(whole))


def test_a_group_that_is_not_full_does_not_count(logits):
    assert measured([logits[:999]], 100).compute() == measured([logits[:900]], 100).compute()


def test_equal_groups_do_not_differ(logits):
    torch.testing.assert_close(measured([logits[:50].repeat(6, 1)], 50).compute(), torch.tensor(0.0), atol=1e-7, rtol=0)


def test_below_two_groups_there_is_none(logits):
    assert measured([logits[:99]], 50).compute().isnan()
    assert measured([logits[:100]], 50).compute().isfinite()


def test_certain_answers_to_few_samples_vary_most():
    labels = torch.randint(10, (6400,), generator=torch.Generator().manual_seed(0))
    hard = 100 * torch.eye(10)[labels]
    values = [measured([scale * hard], group).compute() for scale, group in ((1.0, 64), (0.02, 64), (1.0, 640))]
    assert values[0] > values[1]
    assert values[0] > values[2]
    binomial = (0.1 * 0.9 / 64) ** 0.5
    assert abs(values[0] - binomial) < 0.1 * binomial


def test_a_mean_far_larger_than_the_deviation_costs_no_digits():
    generator = torch.Generator().manual_seed(0)
    logits = torch.tensor([8.0, 0.0, 0.0]) + 0.1 * torch.randn(4000, 3, generator=generator)
    torch.testing.assert_close(measured([logits], 100).compute(), naive(logits, 100), rtol=2e-3, atol=0)


def test_forward_half_precision_and_reset(logits):
    metric = TeacherStddev(5, 100)
    for batch in logits.bfloat16().split(64):
        metric(batch)
    torch.testing.assert_close(metric.compute(), naive(logits.bfloat16().float(), 100))
    metric.reset()
    metric.update(logits)
    torch.testing.assert_close(metric.compute(), naive(logits, 100))


def test_goes_on_from_its_state(logits):
    first = measured([logits[:450]], 100)
    first.persistent(True)
    second = TeacherStddev(5, 100)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    second.update(logits[450:])
    assert torch.equal(second.compute(), measured([logits[:450], logits[450:]], 100).compute())


def test_bad_input():
    with pytest.raises(InputError, match=r"^group: 0 given"):
        TeacherStddev(5, group=0)
    with pytest.raises(InputError, match=r"^num_classes: 0 given"):
        TeacherStddev(0)
    with pytest.raises(InputError, match=r"^teacher: logits of shape \(4, 3\) given .*; accepted are \(..., 5\)$"):
        TeacherStddev(5).update(torch.zeros(4, 3))
