import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import CRD
from lit_distill.losses.relational import crd_nce, crd_scores
from lit_distill.losses.relational.banks import negatives, update
from lit_distill.losses.relational.crd import log_mean_exp

from ...distributed.ranks import run
from . import crd_jobs

LAYERS = {"pool": "pool"}


def unit(*size, seed=0):
    return F.normalize(torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def outputs(index, seed=0, dtype=torch.float32, classes=3):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.zeros(len(index), classes)
    features = [torch.randn(len(index), width, generator=generator).to(dtype) for width in (5, 6)]
    return [Outputs(logits, {"pool": feature}, index) for feature in features]


def term(**kwargs):
    torch.manual_seed(0)
    loss = CRD(**{"samples": 20, "embedding": 4, "negatives": 30, "layers": LAYERS} | kwargs)
    loss.build(*outputs(torch.zeros(1).long()))
    return loss


# ----------------------------------------------------------------------------------------------------------------------
# The loss of one direction


def test_noise_contrast_one_by_one():
    scores, mean, count = 3 * unit(4, 8), 2.5, 7
    rows = []
    for row in scores:
        r = row.exp() / mean
        rows.append(-(r[0] / (r[0] + count)).log() - (count / (r[1:] + count)).log().sum())
    value = crd_nce(scores, torch.tensor(math.log(mean)), samples=0)
    torch.testing.assert_close(value, torch.stack(rows).mean())


def test_gradients():
    anchor, bank, rows = unit(3, 4).requires_grad_(), unit(9, 4, seed=1), torch.randint(9, (3, 6))
    assert gradcheck(lambda a: crd_nce(crd_scores(a, bank, rows, 0.5), torch.tensor(0.3), 9), anchor)


def test_a_learned_temperature():
    temperature = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    scores = [unit(3, 4), unit(9, 4, seed=1), torch.randint(9, (3, 6))]
    assert gradcheck(lambda t: crd_nce(crd_scores(*scores, t), torch.tensor(0.3), 9), temperature)


def test_the_mean_makes_scores_relative():
    scores = 5 * unit(4, 8)
    moved = crd_nce(scores + 100, log_mean_exp(scores + 100), 50)
    torch.testing.assert_close(moved, crd_nce(scores, log_mean_exp(scores), 50))
    torch.testing.assert_close(log_mean_exp(scores), scores.exp().mean().log())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_scores(dtype):
    scores = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]], dtype=dtype, requires_grad=True)
    value = crd_nce(scores, log_mean_exp(scores.float()), samples=10)
    (gradient,) = torch.autograd.grad(value, scores)
    assert value.isfinite()
    assert gradient.isfinite().all()


def test_many_small_terms_keep_their_digits():
    scores = 10 * unit(8, 16385, seed=3) / 0.07
    exact = crd_nce(scores, log_mean_exp(scores), 50000)
    single = crd_nce(scores.float(), log_mean_exp(scores).float(), 50000)
    torch.testing.assert_close(single.double(), exact, rtol=1e-6, atol=0)


def test_picked_scores_are_those_of_copied_rows():
    anchor, bank, rows = unit(3, 4), unit(9, 4, seed=1), torch.randint(9, (3, 6))
    copied = torch.einsum("bd,bkd->bk", anchor, bank[rows]) / 0.07
    torch.testing.assert_close(crd_scores(anchor, bank, rows), copied)


# ----------------------------------------------------------------------------------------------------------------------
# Negatives and banks


def test_negatives_are_uniform_over_the_other_classes_seen():
    classes = torch.tensor([0, 1, -1, 2, 0, 1, 5, -1, 1])
    labels = torch.tensor([0, 1, 2, 5])
    draws = torch.randint(2**31 - 1, (4, 20000), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    rows = negatives(classes, labels, draws)
    for label, row in zip(labels, rows, strict=True):
        others = ((classes >= 0) & (classes != label)).nonzero().squeeze(1)
        assert sorted(row.unique().tolist()) == others.tolist()
        expected = len(row) / len(others)
        assert (row.bincount()[others] - expected).abs().max() < 5 * expected**0.5


def test_only_one_class_seen():
    classes = torch.tensor([-1, 3, -1, 3])
    rows = negatives(classes, torch.tensor([3]), torch.arange(10).unsqueeze(0))
    assert set(rows.flatten().tolist()) == {1, 3}


def test_drawing_all_at_once_is_five_times_faster_than_sample_by_sample():
    samples, count = 50000, 4096
    classes = torch.randint(100, (samples,))
    labels = classes[:64]
    others = [np.flatnonzero(classes.numpy() != c) for c in range(100)]  # made beforehand, as the authors do
    generator = torch.Generator().manual_seed(0)

    def together():
        draws = torch.randint(2**31 - 1, (len(labels), count), generator=generator, dtype=torch.int32)
        return negatives(classes, labels, draws)

    def one_by_one():
        return [np.random.choice(others[label], count, replace=False) for label in labels.tolist()]

    def fastest(call):
        times = []
        for _ in range(5):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return min(times)

    assert 5 * fastest(together) < fastest(one_by_one)


def test_update_of_a_bank():
    bank, v = unit(6, 4), unit(2, 4, seed=1)
    index, before = torch.tensor([4, 1]), bank.clone()
    update(bank, index, v, momentum=0.3)
    torch.testing.assert_close(bank[index], F.normalize(0.3 * before[index] + 0.7 * v))
    kept = [0, 2, 3, 5]
    assert torch.equal(bank[kept], before[kept])


def test_a_sample_in_two_views_moves_towards_both():
    v = unit(2, 4, seed=1)
    banks = [unit(3, 4) for _ in range(2)]
    update(banks[0], torch.tensor([1, 1]), v, momentum=0.5)
    update(banks[1], torch.tensor([1, 1]), v.flip(0), momentum=0.5)
    torch.testing.assert_close(*banks)
    torch.testing.assert_close(banks[0][1], F.normalize(unit(3, 4)[1] + v.sum(0), dim=0))


# ----------------------------------------------------------------------------------------------------------------------
# The term


def test_banks_are_read_before_they_change_and_only_in_training():
    loss, index = term(), torch.tensor([3, 7, 11, 0])
    said, target = outputs(index), index % 3
    evaluated = loss.eval()(*said, target)
    assert torch.equal(loss(*said, target), evaluated)
    assert (loss.banks.state["classes"] == -1).all()
    state = loss.banks.get_extra_state()
    rows = state["student"].clone()
    torch.testing.assert_close(loss.train()(*said, target), evaluated)
    after = loss.banks.get_extra_state()
    changed = (after["student"] != rows).any(1)
    assert changed.nonzero().squeeze(1).tolist() == sorted(index.tolist())
    assert after["classes"][index].tolist() == target.tolist()
    assert (after["classes"] >= 0).sum() == 4
    assert int(after["steps"]) == 1


def test_the_mean_is_that_of_the_first_step():
    loss, index = term(), torch.arange(8)
    loss(*outputs(index), index % 3)
    first = loss.banks.state["log_means"].clone()
    loss(*outputs(index, seed=1), index % 3)
    assert torch.equal(loss.banks.state["log_means"], first)
    assert (first != 0).all()


def test_both_maps_learn_to_tell_samples_apart():
    loss, index = term(embedding=8), torch.arange(12)
    said = outputs(index)
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.1)
    assert len(list(loss.parameters())) == 4
    values = []
    for _ in range(30):
        optimizer.zero_grad()
        value = loss(*said, index % 3)
        value.backward()
        assert all(p.grad.abs().max() > 0 for p in loss.parameters())
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.8 * values[1]


def test_the_order_of_the_batch_does_not_matter():
    index, order = torch.tensor([3, 7, 11, 0]), torch.tensor([2, 0, 3, 1])
    student, teacher = outputs(index)
    moved = [Outputs(o.logits, {"pool": o.features["pool"][order]}, index[order]) for o in (student, teacher)]
    torch.testing.assert_close(term()(*moved, index[order] % 3), term()(student, teacher, index % 3))


def test_mixed_labels_count_as_the_likelier_class():
    index = torch.tensor([3, 7, 11, 0])
    hard = torch.tensor([0, 2, 1, 1])
    mixed = 0.6 * F.one_hot(hard, 3) + 0.4 * F.one_hot((hard + 1) % 3, 3)
    assert torch.equal(term()(*outputs(index), mixed), term()(*outputs(index), hard))


@pytest.mark.parametrize("shape", [(4, 5, 2, 3), (4, 6, 5)])
def test_maps_and_tokens_are_averaged(shape):
    index, x = torch.arange(4), torch.randn(shape)
    teacher = outputs(index)[1]
    vectors = x.mean((2, 3)) if x.dim() == 4 else x.mean(1)
    given = [Outputs(torch.zeros(4, 3), {"pool": feature}, index) for feature in (x, vectors)]
    torch.testing.assert_close(*(term()(student, teacher, index % 3) for student in given))


def test_half_precision():
    index = torch.arange(8)
    exact = term()(*outputs(index), index % 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(term()(*outputs(index), index % 3), exact)
        rounded = term()(*outputs(index, dtype=torch.bfloat16), index % 3)
    torch.testing.assert_close(rounded, exact, rtol=2e-2, atol=0)
    halved = term().to(torch.bfloat16)
    assert halved.banks.state["student"].dtype == torch.float32


def test_resumed_equals_uninterrupted():
    def go_on(loss, steps):
        optimizer = torch.optim.SGD(loss.parameters(), lr=0.1)
        values = []
        for step in steps:
            index = torch.randperm(20, generator=torch.Generator().manual_seed(step))[:8]
            optimizer.zero_grad()
            values.append(loss(*outputs(index, seed=step), index % 3))
            values[-1].backward()
            optimizer.step()
        return torch.stack(values).detach()

    whole = term()
    expected = go_on(whole, range(6))
    first, second = term(), term(seed=0)
    go_on(first, range(3))
    second.load_state_dict(first.state_dict())
    assert torch.equal(go_on(second, range(3, 6)), expected[3:])
    for name, value in whole.banks.get_extra_state().items():
        assert torch.equal(value, second.banks.get_extra_state()[name]), name
    assert not torch.equal(go_on(term(seed=1), range(6)), expected)


def test_a_run_resumed_from_its_checkpoint(tmp_path):
    (whole,) = run(crd_jobs.train, tmp_path, ranks=1)
    (resumed,) = run(crd_jobs.train, tmp_path, ranks=1, resume=str(tmp_path / crd_jobs.CHECKPOINT))
    torch.testing.assert_close(resumed, whole, rtol=0, atol=0)
    assert int(whole["memory"]["steps"]) == crd_jobs.STEPS
    assert (whole["memory"]["classes"] >= 0).sum() == crd_jobs.SAMPLES


@pytest.mark.distributed
def test_two_ranks_do_what_one_does(tmp_path):
    script = str(Path(__file__).with_name("crd_ranks.py"))
    ranks = [
        subprocess.Popen(
            [sys.executable, script, str(rank), str(tmp_path / "meeting")], stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    errors = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(errors)


@pytest.mark.distributed
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_ranks_train_and_resume_as_one(strategy, tmp_path):
    one = run(crd_jobs.train, tmp_path / "one", ranks=1)[0]
    whole = run(crd_jobs.train, tmp_path / "two", strategy)
    checkpoint = str(tmp_path / "two" / crd_jobs.CHECKPOINT)
    for rank in [*whole, *run(crd_jobs.train, tmp_path / "resumed", strategy, resume=checkpoint)]:
        torch.testing.assert_close(rank, one, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"embedding": 0}, "embedding must be at least 1, got 0"),
        ({"negatives": 0}, "negatives must be at least 1, got 0"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ({"layers": {"a": "a", "b": "b"}}, "layers must be one pair"),
    ],
)
def test_bad_hyperparameters(arguments, message):
    with pytest.raises(InputError, match=message):
        CRD(**{"samples": 5} | arguments)


def test_what_is_missing_is_named():
    index = torch.arange(4)
    with pytest.raises(InputError, match=r"got no build\(\)"):
        CRD(samples=5, layers=LAYERS)(*outputs(index), index)
    with pytest.raises(InputError, match="index: true"):
        term()(*(o._replace(sample_index=None) for o in outputs(index)), index)
    with pytest.raises(InputError, match="samples must be above every sample_index, one is 20, got 20"):
        term()(*outputs(index + 17), index % 3)


def test_a_checkpoint_of_other_banks():
    with pytest.raises(InputError, match=r"those of the checkpoint, \(21, 4\), got \(20, 4\)"):
        term().load_state_dict(term(samples=21).state_dict())
