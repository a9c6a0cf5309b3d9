import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import QueueKL
from lit_distill.losses.relational import queue_kl
from lit_distill.losses.relational.queue_kl import Queue

from ...distributed.ranks import run
from . import queue_jobs

LAYERS = {"pool": "pool"}


def unit(*size, seed=0):
    return F.normalize(torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def outputs(batch=4, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    features = [torch.randn(batch, width, generator=generator).to(dtype) for width in (5, 6)]
    return [Outputs(torch.zeros(batch, 3), {"pool": feature}) for feature in features]


def term(**kwargs):
    torch.manual_seed(0)
    loss = QueueKL(**{"size": 12, "layers": LAYERS} | kwargs)
    loss.build(*outputs())
    return loss


# ----------------------------------------------------------------------------------------------------------------------
# The divergence


def test_row_by_row():
    s, t, queue = unit(3, 4), unit(3, 4, seed=1), unit(7, 4, seed=2)
    rows = []
    for b in range(3):
        q = torch.stack([s[b] @ row for row in queue]).div(0.3).softmax(0)
        p = torch.stack([t[b] @ row for row in queue]).div(0.1).softmax(0)
        rows.append((p * (p / q).log()).sum())
    torch.testing.assert_close(queue_kl(s, t, queue, 0.3, 0.1), torch.stack(rows).mean())


def test_nothing_to_learn_from_oneself():
    t, queue = unit(3, 4, seed=1), unit(7, 4, seed=2)
    s = t.clone().requires_grad_()
    value = queue_kl(s, t, queue)
    (gradient,) = torch.autograd.grad(value, s)
    assert value == 0
    assert gradient.abs().max() < 1e-14


def test_the_order_of_the_queue_does_not_matter():
    s, t, queue = unit(3, 4), unit(3, 4, seed=1), unit(7, 4, seed=2)
    torch.testing.assert_close(queue_kl(s, t, queue[torch.randperm(7)]), queue_kl(s, t, queue))


def test_one_row_says_nothing():
    assert queue_kl(unit(3, 4), unit(3, 4, seed=1), unit(1, 4)) == 0


def test_what_the_queue_does_not_span_is_free():
    s, t, queue = unit(3, 4), unit(3, 4, seed=1), unit(7, 4, seed=2)
    queue[:, 3] = 0
    other = s.clone()
    other[:, 3] += 2
    torch.testing.assert_close(queue_kl(other, t, queue), queue_kl(s, t, queue))


def test_gradcheck():
    s, t, queue = unit(3, 4).requires_grad_(), unit(3, 4, seed=1), unit(7, 4, seed=2)
    temperature = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x, v: queue_kl(x, t, queue, v, 0.2), (s, temperature))


def test_extreme_temperature():
    s = unit(3, 4).float().requires_grad_()
    value = queue_kl(s, unit(3, 4, seed=1).float(), unit(7, 4, seed=2).float(), 1e-4, 1e-4)
    (gradient,) = torch.autograd.grad(value, s)
    assert value.isfinite()
    assert gradient.isfinite().all()


def test_tight_cluster_under_autocast():
    generator = torch.Generator().manual_seed(0)
    s, t, queue = (F.normalize(3 + 0.2 * torch.randn(16, 64, generator=generator)) for _ in range(3))
    exact = queue_kl(s.double(), t.double(), queue.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        given = queue_kl(s, t, queue)
        q, p = (x @ queue.T / 0.07 for x in (s, t))
        plain = F.kl_div(q.float().log_softmax(1), p.float().softmax(1), reduction="batchmean")
    torch.testing.assert_close(given.double(), exact, rtol=1e-2, atol=0)
    assert abs(plain - exact) > 1e-1 * exact


# ----------------------------------------------------------------------------------------------------------------------
# The queue


def test_the_latest_rows_stay():
    queue, seen = Queue(5, 1), []
    for step in range(4):
        new = torch.tensor([[2.0 * step], [2.0 * step + 1]])
        seen = [*new.flatten().tolist(), *seen][:5]
        rows = queue.with_first(new)
        assert rows.flatten().tolist() == seen
        assert queue.with_first(new).equal(rows)  # until it is put
        queue.put(rows)
    assert queue.get_extra_state()["rows"].shape == (5, 1)


def test_a_batch_larger_than_the_queue():
    queue = Queue(3, 1)
    queue.put(queue.with_first(torch.arange(5.0)[:, None]))
    assert queue.with_first(torch.zeros(0, 1)).flatten().tolist() == [0, 1, 2]


def test_a_checkpoint_of_another_queue():
    with pytest.raises(InputError, match=r"those of the checkpoint, \(13, 6\), got \(12, 6\)"):
        term().load_state_dict(term(size=13).state_dict())


# ----------------------------------------------------------------------------------------------------------------------
# The term


def test_the_queue_has_this_batch_first_and_then_those_before():
    loss = term()
    batches = [outputs(seed=seed) for seed in range(5)]
    taught = [F.normalize(t.features["pool"]) for _, t in batches]
    for i, (student, teacher) in enumerate(batches):
        learnt = F.normalize(loss.projector(student.features["pool"]))
        queue = torch.cat(taught[: i + 1][::-1])[:12]
        torch.testing.assert_close(loss(student, teacher, None), queue_kl(learnt, taught[i], queue))


def test_only_training_moves_the_queue():
    loss, said = term(), outputs()
    evaluated = loss.eval()(*said, None)
    assert loss.queue.filled == 0
    torch.testing.assert_close(loss.train()(*said, None), evaluated)
    assert loss.queue.filled == 4


def test_a_step_after_another_before_the_backward_pass():
    loss = term()
    (loss(*outputs(seed=1), None) + loss(*outputs(seed=2), None)).backward()
    assert all(p.grad.abs().max() > 0 for p in loss.parameters())


def test_two_temperatures():
    said = outputs()
    expected = term(temperature=0.2, teacher_temperature=0.2)(*said, None)
    assert term(temperature=0.2)(*said, None) == expected
    assert term(temperature=0.2, teacher_temperature=0.01)(*said, None) != expected


@pytest.mark.parametrize("shape", [(4, 5, 2, 3), (4, 6, 5)])
def test_maps_and_tokens_are_averaged(shape):
    x = torch.randn(shape)
    vectors = x.mean((2, 3)) if x.dim() == 4 else x.mean(1)
    teacher = outputs()[1]
    given = [Outputs(torch.zeros(4, 3), {"pool": feature}) for feature in (x, vectors)]
    torch.testing.assert_close(*(term()(student, teacher, None) for student in given))


def test_half_precision():
    exact = term()(*outputs(), None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(term()(*outputs(), None), exact)
        rounded = term()(*outputs(dtype=torch.bfloat16), None)
    torch.testing.assert_close(rounded, exact, rtol=2e-2, atol=0)
    halved = term().to(torch.bfloat16)
    halved(*outputs(dtype=torch.bfloat16), None)
    assert halved.queue.rows.dtype == torch.float32


def test_resumed_equals_uninterrupted():
    def go_on(loss, steps):
        optimizer = torch.optim.SGD(loss.parameters(), lr=0.1)
        values = []
        for step in steps:
            optimizer.zero_grad()
            values.append(loss(*outputs(seed=step), None))
            values[-1].backward()
            optimizer.step()
        return torch.stack(values).detach()

    whole = term()
    expected = go_on(whole, range(6))
    first, second = term(), term()
    go_on(first, range(2))
    second.load_state_dict(first.state_dict())
    assert torch.equal(go_on(second, range(2, 6)), expected[2:])
    for name, value in whole.queue.get_extra_state().items():
        assert torch.equal(value, second.queue.get_extra_state()[name]), name


def test_a_run_resumed_from_its_checkpoint(tmp_path):
    (whole,) = run(queue_jobs.train, tmp_path, ranks=1)
    (resumed,) = run(queue_jobs.train, tmp_path, ranks=1, resume=str(tmp_path / queue_jobs.CHECKPOINT))
    torch.testing.assert_close(resumed, whole, rtol=0, atol=0)
    assert int(whole["queue"]["filled"]) == 16


@pytest.mark.distributed
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_ranks_train_and_resume_as_one(strategy, tmp_path):
    one = run(queue_jobs.train, tmp_path / "one", ranks=1)[0]
    whole = run(queue_jobs.train, tmp_path / "two", strategy)
    assert torch.equal(whole[0]["queue"]["rows"], whole[1]["queue"]["rows"])
    checkpoint = str(tmp_path / "two" / queue_jobs.CHECKPOINT)
    resumed = run(queue_jobs.train, tmp_path / "resumed", strategy, resume=checkpoint)
    for rank in [*whole, *resumed]:
        for name, weight in one["weights"].items():
            torch.testing.assert_close(rank["weights"][name], weight, rtol=0, atol=1e-4)
        # ranks put their samples behind each other, whatever their order in the batch of one
        rows = [x["queue"]["rows"].view(2, 8, -1) for x in (rank, one)]
        for ours, theirs in zip(*rows, strict=True):
            distances = torch.cdist(ours, theirs)
            assert distances.amin(1).max() < 1e-4
            assert distances.amin(0).max() < 1e-4
    for rank, again in zip(whole, resumed, strict=True):
        assert torch.equal(rank["queue"]["rows"], again["queue"]["rows"])


@pytest.mark.distributed
def test_two_ranks_do_what_one_does(tmp_path):
    run(queue_jobs.parts_of_a_batch, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "size must be at least 1, got 0"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"teacher_temperature": 0.0}, "teacher_temperature must be positive, got 0.0"),
        ({"layers": {"a": "a", "b": "b"}}, "layers must be one pair"),
    ],
)
def test_bad_hyperparameters(arguments, message):
    with pytest.raises(InputError, match=message):
        QueueKL(**arguments)


def test_not_built():
    with pytest.raises(InputError, match=r"got no build\(\)"):
        QueueKL(layers=LAYERS)(*outputs(), None)
