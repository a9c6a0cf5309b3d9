import pytest
import torch
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import FT
from lit_distill.losses.feature import ft


def outputs(*shapes, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    maps = {f"l{i}": torch.rand(4, *shape, generator=generator).to(dtype) for i, shape in enumerate(shapes)}
    return Outputs(torch.zeros(4, 10), maps)


def built(student, teacher, **given):
    torch.manual_seed(0)
    loss = FT(layers=dict(zip(student.features, teacher.features, strict=True)), **given)
    loss.build(student, teacher)
    return loss


def test_the_modes_by_hand():
    student, teacher = torch.randn(4, 3, 2, 5), torch.randn(4, 3, 2, 5)
    s, t = (x / x.flatten(1).norm(dim=1)[:, None, None, None] for x in (student, teacher))
    torch.testing.assert_close(ft(student, teacher), (s - t).abs().mean())
    torch.testing.assert_close(ft(student, teacher, p=2), (s - t).square().mean())
    s, t = (F.normalize(x.square().sum(1).flatten(1)) for x in (student, teacher))
    torch.testing.assert_close(ft(student, teacher, mode="code"), (s - t).abs().mean())


def test_the_larger_factor_is_averaged():
    student, teacher = torch.randn(4, 3, 8, 8), torch.randn(4, 3, 4, 4)
    for mode in ("paper", "code"):
        assert ft(student, teacher, mode=mode) == ft(F.avg_pool2d(student, 2), teacher, mode=mode)
        assert ft(teacher, student, mode=mode) == ft(teacher, F.avg_pool2d(student, 2), mode=mode)


@pytest.mark.parametrize(("rate", "factors"), [(0.5, 4), (0.75, 6), (1.0, 8), (2.0, 16), (0.01, 1)])
def test_networks_of_the_shapes(rate, factors):
    student, teacher = outputs((3, 4, 4)), outputs((8, 4, 4))
    loss = built(student, teacher, rate=rate)
    factor = loss.encoders[0](teacher.features["l0"])
    assert factor.shape == loss.translators[0](student.features["l0"]).shape == (4, factors, 4, 4)
    assert loss.decoders[0](factor).shape == teacher.features["l0"].shape


def test_the_paraphraser_sees_the_teacher_alone():
    student, teacher = outputs((3, 4, 4), (3, 2, 2)), outputs((8, 4, 4), (6, 2, 2))
    for x in student.features.values():
        x.requires_grad_()
    loss = built(student, teacher, reconstruction_weight=0.5)
    paraphrasers = [*loss.encoders.parameters(), *loss.decoders.parameters()]
    others = [*student.features.values(), *loss.translators.parameters()]
    value = loss(student, teacher, torch.zeros(4))
    gradients = torch.autograd.grad(value, paraphrasers + others)
    assert all(gradient.abs().max() > 0 for gradient in gradients)

    error, transfer = 0, 0
    for i, (s, t) in enumerate(loss.pairs(student, teacher)):
        factor = loss.encoders[i](t)
        error = error + 0.5 * (loss.decoders[i](factor) - t).square().mean()
        transfer = transfer + ft(loss.translators[i](s), factor.detach())
    torch.testing.assert_close(value, error + transfer)
    expected = [*torch.autograd.grad(error, paraphrasers), *torch.autograd.grad(transfer, others)]
    torch.testing.assert_close(gradients, tuple(expected))


def test_without_transfer_the_paraphraser_goes_first():
    student, teacher = outputs((3, 4, 4)), outputs((8, 4, 4))
    student.features["l0"].requires_grad_()
    loss = built(student, teacher)
    loss.transfer_weight = 0.0  # as a schedule sets it
    value = loss(student, teacher, torch.zeros(4))
    (gradient,) = torch.autograd.grad(value, student.features["l0"], retain_graph=True)
    assert gradient.abs().max() == 0
    assert all(p.grad is None for p in loss.parameters())
    value.backward()
    assert all(p.grad.abs().max() > 0 for p in [*loss.encoders.parameters(), *loss.decoders.parameters()])


def test_both_parts_are_learnt():
    student, teacher = outputs((3, 4, 4)), outputs((8, 4, 4))
    student.features["l0"].requires_grad_()
    loss = built(student, teacher, reconstruction_weight=1.0)
    optimizer = torch.optim.Adam([*loss.parameters(), student.features["l0"]], lr=0.01)

    def parts():
        factor = loss.encoders[0](teacher.features["l0"])
        transfer = ft(loss.translators[0](student.features["l0"]), factor)
        return transfer.item(), (loss.decoders[0](factor) - teacher.features["l0"]).square().mean().item()

    before = parts()
    for _ in range(60):
        optimizer.zero_grad()
        loss(student, teacher, torch.zeros(4)).backward()
        optimizer.step()
    after = parts()
    assert after[0] < 0.7 * before[0]
    assert after[1] < 0.7 * before[1]


@pytest.mark.parametrize(("dtype", "wanted"), [(torch.float64, torch.float64), (torch.bfloat16, torch.float32)])
def test_parameters_are_as_precise_as_the_maps_but_never_half(dtype, wanted):
    loss = built(outputs((3, 4, 4), dtype=dtype), outputs((6, 4, 4), dtype=dtype))
    assert {p.dtype for p in loss.parameters()} == {wanted}


def test_autocast_is_close():
    student, teacher = outputs((3, 4, 4)), outputs((8, 4, 4), seed=1)
    loss = built(student, teacher)
    exact = loss(student, teacher, torch.zeros(4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        given = loss(student, teacher, torch.zeros(4))
    assert given.dtype == torch.float32
    torch.testing.assert_close(given, exact, rtol=1e-2, atol=0)


def test_messages():
    for name, value in {"rate": 0, "p": 0.5, "transfer_weight": -1, "reconstruction_weight": 0, "mode": "both"}.items():
        with pytest.raises(InputError, match=f"^{name} must be .*, got {value!r}$"):
            FT(layers={"a": "a"}, **{name: value})
    with pytest.raises(InputError, match="FT must be built"):
        FT(layers={"l0": "l0"})(outputs((3, 4, 4)), outputs((8, 4, 4)), torch.zeros(4))
    with pytest.raises(InputError, match=r"factors must be of as many channels, got \(1, 2, 4, 4\) and \(1, 3, 4, 4\)"):
        ft(torch.zeros(1, 2, 4, 4), torch.zeros(1, 3, 4, 4))
