"""What is kept of a distribution, and what comes back."""

import pytest
import torch
from torch.nn import functional as F

from lit_distill.errors import InputError
from lit_distill.losses.logit import kd
from lit_distill.store import cut, expand, keep
from lit_distill.store.files import read_shard, write_shard

CLASSES = 7
every_k = pytest.mark.parametrize("k", range(1, CLASSES + 1))


def logits(rows=5, dtype=torch.float64):
    return 3 * torch.randn(rows, CLASSES, generator=torch.Generator().manual_seed(0), dtype=dtype)


@every_k
def test_what_is_kept_and_the_rest_are_everything(k):
    kept = keep(logits(), k)
    torch.testing.assert_close(kept.values.exp().sum(-1) + kept.rest.exp(), torch.ones(5, dtype=torch.float64))
    p = logits().softmax(-1)
    torch.testing.assert_close(kept.values.exp(), p.sort(descending=True).values[:, :k])
    torch.testing.assert_close(p.gather(-1, kept.indices), kept.values.exp())


@every_k
@pytest.mark.parametrize("rest", ["smoothing", "renorm"])
def test_sample_by_sample(k, rest):
    for row, back in zip(logits().softmax(-1), expand(keep(logits(), k), CLASSES, rest).exp(), strict=True):
        best = row.argsort(descending=True)[:k].tolist()
        total = sum(row[c] for c in best)
        for c in range(CLASSES):
            share = (1 - total) / max(CLASSES - k, 1) if rest == "smoothing" else torch.zeros_like(total)
            kept = row[c] if rest == "smoothing" else row[c] / total
            torch.testing.assert_close(back[c], kept if c in best else share)


@pytest.mark.parametrize("rest", ["smoothing", "renorm"])
def test_all_classes_give_everything_back(rest):
    torch.testing.assert_close(expand(keep(logits(), CLASSES), CLASSES, rest), logits().log_softmax(-1))


def test_one_class_is_a_hard_or_a_smoothed_label():
    p, favourite = logits().softmax(-1), F.one_hot(logits().argmax(-1), CLASSES).double()
    torch.testing.assert_close(expand(keep(logits(), 1), CLASSES, "renorm").exp(), favourite)
    confidence = p.amax(-1, keepdim=True)
    smoothed = favourite * confidence + (1 - favourite) * (1 - confidence) / (CLASSES - 1)
    torch.testing.assert_close(expand(keep(logits(), 1), CLASSES).exp(), smoothed)


@every_k
def test_cutting_later_is_keeping_less(k):
    for one, other in zip(cut(keep(logits(), 6), min(k, 6)), keep(logits(), min(k, 6)), strict=True):
        torch.testing.assert_close(one, other)
    for one, other in zip(cut(keep(logits(), CLASSES), k), keep(logits(), k), strict=True):
        torch.testing.assert_close(one, other)


def test_keeping_what_was_expanded_changes_nothing():
    kept = keep(logits(), 3)
    for one, other in zip(keep(expand(kept, CLASSES), 3), kept, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("rest", ["smoothing", "renorm"])
@pytest.mark.parametrize("scale", [1.0, 1e4, 1e6])
@every_k
def test_any_logits_survive_the_disk(tmp_path, dtype, rest, scale, k):
    """Probabilities stay sums of 1, and a loss on them has gradients, however certain the teacher is."""
    teacher = scale * logits(dtype=torch.float32)
    write_shard(tmp_path / "shard", keep(teacher, k), CLASSES, dtype)
    values, indices, other = read_shard(tmp_path / "shard")
    stored = keep(teacher, k)._replace(values=values.float(), indices=indices, rest=other.float())
    back = expand(cut(stored, max(k - 1, 1)), CLASSES, rest)
    torch.testing.assert_close(back.exp().sum(-1), torch.ones(5))
    torch.testing.assert_close(back.argmax(-1), teacher.argmax(-1))
    student = logits(dtype=torch.float32).requires_grad_()
    value = kd(student, back, 4.0)
    value.backward()
    assert value.isfinite()
    assert student.grad.isfinite().all()


def test_the_precision_of_the_disk(tmp_path):
    exact = logits(rows=200, dtype=torch.float32)
    for dtype, tolerance in (("float16", 2e-3), ("float32", 1e-6)):
        write_shard(tmp_path / dtype, keep(exact, CLASSES), CLASSES, dtype)
        back = expand(read_shard(tmp_path / dtype), CLASSES).exp()
        assert (back - exact.softmax(-1)).abs().max() < tolerance


def test_many_classes_need_wider_indices(tmp_path):
    wide = torch.zeros(1, 40_000).index_fill_(1, torch.tensor([39_999]), 9.0)
    write_shard(tmp_path / "wide", keep(wide, 1), 40_000, "float16")
    assert read_shard(tmp_path / "wide").indices.tolist() == [[39_999]]


def test_half_precision_is_raised():
    kept = keep(logits().bfloat16(), 2)
    assert kept.values.dtype == kept.rest.dtype == torch.float32


@pytest.mark.parametrize("k", [0, -1, CLASSES + 1])
def test_k_is_checked(k):
    with pytest.raises(InputError, match=f"k must be from 1 to the number of classes, {CLASSES}, got {k}"):
        keep(logits(), k)
    with pytest.raises(InputError, match=f"k must be from 1 to {CLASSES}, as many as were kept, got {k}"):
        cut(keep(logits(), CLASSES), k)
