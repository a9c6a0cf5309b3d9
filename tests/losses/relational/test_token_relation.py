import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import TokenRelation
from lit_distill.losses.relational import token_relation

LAYERS = {"map": "map"}


def tokens(*size, seed=0):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def said(x):
    return Outputs(torch.zeros(len(x), 3), {"map": x})


def term(student, teacher, **kwargs):
    torch.manual_seed(0)
    loss = TokenRelation(**{"layers": LAYERS} | kwargs)
    loss.build(said(student), said(teacher))
    return loss


def test_row_by_row():
    s, t = tokens(2, 5, 3), tokens(2, 5, 4, seed=1)
    rows = []
    for learnt, taught in zip(s, t, strict=True):
        for i in range(5):
            q, p = (torch.cosine_similarity(x[i : i + 1], x).div(0.3).softmax(0) for x in (learnt, taught))
            rows.append((p * (p / q).log()).sum())
    torch.testing.assert_close(token_relation(s, t, 0.3), torch.stack(rows).mean())


def test_length_and_rotation_do_not_matter():
    s, t = tokens(2, 5, 3), tokens(2, 5, 4, seed=1)
    turn = torch.linalg.qr(tokens(3, 3, seed=2)).Q
    lengths = torch.rand(2, 5, 1).double() + 0.5
    torch.testing.assert_close(token_relation(lengths * s @ turn, t), token_relation(s, t))
    assert token_relation(lengths * s @ turn, s) < 1e-14


def test_no_gradient_where_there_is_nothing_to_learn():
    s = tokens(2, 5, 3).requires_grad_()
    (gradient,) = torch.autograd.grad(token_relation(s, s.detach()), s)
    assert gradient.abs().max() < 1e-14


def test_a_high_temperature_knows_nothing():
    s, t = tokens(2, 5, 3), tokens(2, 5, 4, seed=1)
    values = [token_relation(s, t, temperature) for temperature in (0.1, 10.0, 1e4)]
    assert values[0] > values[1] > values[2]
    assert values[2] < 1e-8


def test_images_do_not_mix():
    s, t = tokens(2, 5, 3), tokens(2, 5, 4, seed=1)
    alone = [token_relation(s[i : i + 1], t[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(token_relation(s, t), torch.stack(alone).mean())


def test_gradcheck():
    s, t = tokens(2, 4, 3).requires_grad_(), tokens(2, 4, 5, seed=1)
    temperature = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x, v: token_relation(x, t, v), (s, temperature))


@pytest.mark.parametrize("collapsed", [torch.zeros(1, 4, 3), torch.ones(1, 4, 3)])
@pytest.mark.parametrize("temperature", [0.07, 1e-4])
def test_collapsed_tokens(collapsed, temperature):
    s = collapsed.clone().requires_grad_()
    value = token_relation(s, torch.randn(1, 4, 3), temperature)
    (gradient,) = torch.autograd.grad(value, s)
    assert value.isfinite()
    assert gradient.isfinite().all()


def test_half_precision():
    generator = torch.Generator().manual_seed(0)
    s, t = (3 + 0.3 * torch.randn(4, 16, 32, generator=generator) for _ in range(2))
    exact = token_relation(s.double(), t.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        given = token_relation(s, t)
        q, p = (F.normalize(x, dim=2) @ F.normalize(x, dim=2).mT / 0.07 for x in (s, t))
        plain = F.kl_div(q.float().log_softmax(2), p.float().softmax(2), reduction="sum") / 64
    torch.testing.assert_close(given.double(), exact, rtol=1e-3, atol=0)
    assert abs(plain - exact) > 1e-2 * exact


def test_the_students_map_takes_the_size_of_the_teachers():
    s, t = tokens(2, 3, 2, 2).float(), tokens(2, 17, 6, seed=1).float()  # one token before 4 by 4
    loss = term(s, t)
    larger = F.interpolate(s, (4, 4), mode="bilinear")
    learnt = loss.projectors[0](larger.flatten(2).mT)
    torch.testing.assert_close(loss(said(s), said(t), None), token_relation(learnt, t[:, 1:]))


def test_pairs_are_summed_and_maps_are_trained():
    s, t = tokens(2, 3, 2, 2).float(), tokens(2, 5, 2, 2, seed=1).float()
    loss = TokenRelation(layers={"a": "a", "b": "b"})
    both = [Outputs(torch.zeros(2, 3), {"a": x, "b": x}) for x in (s, t)]
    loss.build(*both)
    loss.projectors[1].load_state_dict(loss.projectors[0].state_dict())
    value = loss(*both, None)
    torch.testing.assert_close(value, 2 * token_relation(loss.projectors[0](s.flatten(2).mT), t.flatten(2).mT))
    value.backward()
    # a map of the tokens changes their cosines: its bias too
    assert all(p.grad.abs().max() > 0 for p in loss.parameters())


def test_bad_input():
    with pytest.raises(InputError, match=r"temperature must be positive, got 0\.0"):
        TokenRelation(temperature=0.0)
    with pytest.raises(InputError, match=r"tokens must be \(B, N, D\)"):
        token_relation(torch.zeros(2, 4, 3), torch.zeros(2, 5, 3))
    x = said(torch.zeros(2, 3, 2, 2))
    with pytest.raises(InputError, match=r"got no build\(\)"):
        TokenRelation(layers=LAYERS)(x, x, None)
