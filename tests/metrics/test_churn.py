import pytest
import torch
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from lit_distill.errors import InputError
from lit_distill.metrics import Churn, TeacherAgreement

NAMES = ("churn", "good_churn", "bad_churn")


@pytest.fixture
def samples():
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(200, 5, generator=generator)
    return base + torch.randn(200, 5, generator=generator), base, torch.randint(5, (200,), generator=generator)


def shares(student, base, target, parts=(slice(None),)):
    metric = Churn()
    for part in parts:
        metric.update(student[part], base[part], target[part])
    return {name: share.item() for name, share in metric.compute().items()}


def test_sample_by_sample(samples):
    counts = dict.fromkeys(NAMES, 0)
    for new, old, y in zip(*samples, strict=True):
        new, old, y = new.argmax().item(), old.argmax().item(), y.item()
        counts["churn"] += new != old
        counts["good_churn"] += old != y and new == y
        counts["bad_churn"] += old == y and new != y
    assert all(counts.values())
    assert counts["good_churn"] + counts["bad_churn"] < counts["churn"]  # one mistake in place of another
    assert shares(*samples) == pytest.approx({name: count / 200 for name, count in counts.items()})


def test_it_is_what_agreement_lacks_and_good_less_bad_is_the_gain_in_accuracy(samples):
    student, base, target = samples
    agreement, before, after = TeacherAgreement(), *(MulticlassAccuracy(5, average="micro") for _ in range(2))
    agreement.update(student, base)
    before.update(base, target)
    after.update(student, target)
    found = shares(*samples)
    assert found["churn"] == pytest.approx(1 - agreement.compute().item())
    assert found["good_churn"] - found["bad_churn"] == pytest.approx((after.compute() - before.compute()).item())


def test_going_back_swaps_good_and_bad(samples):
    student, base, target = samples
    there, back = shares(student, base, target), shares(base, student, target)
    assert there == {"churn": back["churn"], "good_churn": back["bad_churn"], "bad_churn": back["good_churn"]}
    assert shares(base, base, target) == dict.fromkeys(NAMES, 0.0)


def test_with_two_classes_every_change_is_good_or_bad(samples):
    student, base, target = samples
    found = shares(student[:, :2], base[:, :2], target % 2)
    assert found["churn"] == pytest.approx(found["good_churn"] + found["bad_churn"])


def test_batches_tokens_and_mixed_labels(samples):
    student, base, target = samples
    whole = shares(*samples)
    assert shares(*samples, parts=(slice(0, 150), slice(150, 200))) == whole
    assert shares(student.view(20, 10, 5), base.view(20, 10, 5), target.view(20, 10)) == whole
    assert shares(student, base, 0.8 * F.one_hot(target, 5) + 0.04) == whole


def test_what_two_ranks_counted_adds_up(samples):
    ranks = [Churn(), Churn()]
    for rank, part in zip(ranks, (slice(0, 120), slice(120, 200)), strict=True):
        rank.update(*(tensor[part] for tensor in samples))
    ranks[0].merge_state(ranks[1])
    assert {name: share.item() for name, share in ranks[0].compute().items()} == shares(*samples)


def test_shapes_that_do_not_fit():
    with pytest.raises(InputError, match=r"teacher: logits of shape \(4, 3\)"):
        Churn().update(torch.zeros(4, 2), torch.zeros(4, 3), torch.zeros(4, dtype=torch.long))
    with pytest.raises(InputError, match="target must be class indices"):
        Churn().update(torch.zeros(4, 2), torch.zeros(4, 2), torch.zeros(3, dtype=torch.long))
