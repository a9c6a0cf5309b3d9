import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import SemCKD
from lit_distill.losses.relational import semckd_attention
from lit_distill.losses.relational.semckd import sample_errors, similarities

LAYERS = {"a": "a", "b": "b"}
SHAPES = pytest.mark.parametrize("batch_size", [6, None])


def outputs(batch=6, seed=0, shapes=((3, 8, 8), (4, 4, 4)), dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    features = {
        name: torch.randn(batch, *shape, generator=generator).to(dtype)
        for name, shape in zip("ab", shapes, strict=True)
    }
    return Outputs(torch.zeros(batch, 10), features)


def teacher_outputs(**kwargs):
    return outputs(seed=1, shapes=((5, 4, 4), (6, 4, 4)), **kwargs)


def term(layers=LAYERS, **kwargs):
    torch.manual_seed(0)
    loss = SemCKD(**{"batch_size": 6, "embedding": 4} | kwargs, layers=layers)
    loss.build(outputs(2), teacher_outputs(batch=2))
    return loss


def first(batch, said):
    return Outputs(said.logits[:batch], {name: x[:batch] for name, x in said.features.items()})


def test_attention_one_by_one():
    queries, keys = torch.randn(2, 3, 5), torch.randn(2, 4, 5)
    attention = semckd_attention(queries, keys, temperature=0.5)
    cosines = torch.tensor([F.cosine_similarity(queries[1, 2], key, dim=0) for key in keys[1]])
    torch.testing.assert_close(attention[1, 2], (cosines / 0.5).softmax(0))


@SHAPES
def test_every_pair_of_layers_by_its_attention(batch_size):
    loss, student, teacher = term(batch_size=batch_size), outputs(), teacher_outputs()
    value = loss(student, teacher, torch.zeros(6))

    def described(embeds, said):
        rows = [x.mean((2, 3)) if batch_size is None else similarities(x, 6) for x in said.features.values()]
        return torch.stack([embed(row) for embed, row in zip(embeds, rows, strict=True)], 1)

    attention = semckd_attention(described(loss.queries, student), described(loss.keys, teacher))
    total = 0
    for i, s in enumerate(student.features.values()):
        for j, t in enumerate(teacher.features.values()):
            projected = loss.bridges[2 * i + j](F.adaptive_avg_pool2d(s, 4))
            total = total + (attention[:, i, j] * sample_errors(projected, t)).sum()
    torch.testing.assert_close(value, total / 12)


@SHAPES
def test_everything_learns(batch_size):
    loss, student, teacher = term(batch_size=batch_size), outputs(), teacher_outputs()
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.01)
    values = []
    for _ in range(20):
        optimizer.zero_grad()
        value = loss(student, teacher, torch.zeros(6))
        value.backward()
        assert all(p.grad.isfinite().all() for p in loss.parameters())
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.9 * values[0]
    for part in (loss.queries, loss.keys, loss.bridges):
        assert any(p.grad.abs().max() > 0 for p in part.parameters())


def test_a_smaller_batch_is_one_with_samples_that_are_like_no_other():
    row = similarities(torch.randn(4, 7), 6)
    assert row.shape == (4, 6)
    assert (row[:, 4:] == 0).all()
    loss = term().eval()  # whose BatchNorms do not depend on the batch
    student, teacher = first(4, outputs()), first(4, teacher_outputs())
    silent = [
        Outputs(
            torch.zeros(6, 10), {name: torch.cat([x, torch.zeros(2, *x.shape[1:])]) for name, x in o.features.items()}
        )
        for o in (student, teacher)
    ]
    seen = []
    loss.queries[0].register_forward_hook(lambda module, given, answer: seen.append(answer))
    loss(student, teacher, torch.zeros(4))
    loss(*silent, torch.zeros(6))
    torch.testing.assert_close(seen[1][:4], seen[0])


def test_pooled_activations_do_not_depend_on_the_batch():
    loss = term(batch_size=None).eval()
    student, teacher = outputs(), teacher_outputs()
    parts = [loss(first(n, student), first(n, teacher), torch.zeros(n)) * n for n in (5, 6)]
    last = [Outputs(o.logits[5:], {name: x[5:] for name, x in o.features.items()}) for o in (student, teacher)]
    torch.testing.assert_close(parts[1], parts[0] + loss(*last, torch.zeros(1)))


def test_a_layer_of_the_teacher_may_be_named_twice():
    loss = SemCKD(layers={"a": "b", "b": "b"})
    loss.build(outputs(), teacher_outputs())
    assert (len(loss.queries), len(loss.keys), len(loss.bridges)) == (2, 1, 2)
    assert loss(outputs(), teacher_outputs(), torch.zeros(6)) > 0


def test_tokens_that_fill_a_square():
    tokens = Outputs(torch.zeros(6, 10), {name: torch.randn(6, 16, 8) for name in "ab"})
    loss = SemCKD(layers=LAYERS)
    loss.build(outputs(), tokens)
    assert loss(outputs(), tokens, torch.zeros(6)).isfinite()


@SHAPES
def test_half_precision_and_large_activations(batch_size):
    loss = term(batch_size=batch_size)
    exact = loss(outputs(), teacher_outputs(), torch.zeros(6))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = loss(outputs(dtype=torch.bfloat16), teacher_outputs(dtype=torch.bfloat16), torch.zeros(6))
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=3e-2, atol=0)
    large = Outputs(torch.zeros(6, 10), {name: 1e4 * x for name, x in outputs().features.items()})
    assert loss(large, teacher_outputs(), torch.zeros(6)).isfinite()


def test_a_dry_run_in_half_precision_makes_full_precision_parameters():
    loss = SemCKD(layers=LAYERS)
    loss.build(outputs(dtype=torch.bfloat16), teacher_outputs(dtype=torch.bfloat16))
    assert {p.dtype for p in loss.parameters()} == {torch.float32}
    assert isinstance(loss.bridges[0][1], nn.BatchNorm2d)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, or null, got 0"),
        ({"embedding": 0}, "embedding must be at least 1, got 0"),
        ({"temperature": 0.0}, "temperature must be positive"),
    ],
)
def test_bad_hyperparameters(arguments, message):
    with pytest.raises(InputError, match=message):
        SemCKD(**arguments)


def test_calls_that_cannot_be_answered():
    with pytest.raises(InputError, match=r"got no build\(\)"):
        SemCKD(layers=LAYERS)(outputs(), teacher_outputs(), torch.zeros(6))
    with pytest.raises(InputError, match="batch_size must be 7 for this batch, or more, got 6"):
        term()(outputs(7), teacher_outputs(batch=7), torch.zeros(7))
