"""What holds for every modifier, alone and around others."""

import inspect
from copy import deepcopy
from itertools import product

import pytest
import torch
from torch.nn import functional as F

from lit_distill.errors import InputError
from lit_distill.losses import (
    CTKD,
    ConfidenceMask,
    CorrectnessMask,
    EntropyPick,
    LogitLoss,
    NoisyTeacher,
    PairedViews,
    Standardised,
    TopK,
    logit,
)
from lit_distill.losses.modifiers import TemperatureModifier

from .common import CLASSES, KINDS, both, call, dts, kd, met, value_and_gradient

every_kind = pytest.mark.parametrize("kind", KINDS)


def plain(thing):
    """Can it be made without arguments, and does it ask for no features?"""
    if not (inspect.isclass(thing) and issubclass(thing, LogitLoss)):
        return False
    required = [p for p in inspect.signature(thing).parameters.values() if p.default is p.empty]
    return not [p for p in required if p.kind is not p.VAR_KEYWORD] and not thing().layers


TERMS = [thing for thing in vars(logit).values() if plain(thing)]
TEMPERED = [term for term in TERMS if "temperature" in inspect.signature(term).parameters]

NEUTRAL = {
    "bucket": lambda loss: TopK(loss, k=CLASSES),
    "renormalise_both": lambda loss: TopK(loss, k=CLASSES + 1, tail="renormalise_both"),
    "renormalise_teacher": lambda loss: TopK(loss, k=CLASSES, tail="renormalise_teacher"),
    "confident": lambda loss: ConfidenceMask(loss, threshold=0.0),
    "confident, of those kept": lambda loss: ConfidenceMask(loss, threshold=0.0, mean_over="kept"),
    "noisy": lambda loss: NoisyTeacher(loss, std=0.0),
    "never noisy": lambda loss: NoisyTeacher(loss, probability=0.0, noise="additive"),
    "within": lambda loss: PairedViews(loss, pairs="within"),
    "all picked": lambda loss: EntropyPick(loss, keep=1.0),
    "all picked, of the batch": lambda loss: EntropyPick(loss, keep=1.0, mean_over="batch"),
}


def test_terms_are_found():
    assert len(TEMPERED) > 2
    assert len(TERMS) > len(TEMPERED)


@pytest.mark.parametrize("name", NEUTRAL)
@pytest.mark.parametrize("term", TERMS)
def test_neutral_settings_change_nothing(name, term):
    given = both()
    bare, modified = met(term()).double(), met(NEUTRAL[name](term())).double()
    for a, b in zip(value_and_gradient(modified, *given), value_and_gradient(bare, *given), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("mean_over", ["batch", "kept"])
@pytest.mark.parametrize("term", TERMS)
def test_a_teacher_who_is_always_right_changes_nothing(term, mean_over):
    student, teacher, _ = both()
    given = student, teacher, teacher.argmax(-1)
    bare, modified = met(term()).double(), met(CorrectnessMask(term(), mean_over=mean_over)).double()
    for a, b in zip(value_and_gradient(modified, *given), value_and_gradient(bare, *given), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("term", TEMPERED)
@pytest.mark.parametrize(
    "modified",
    [
        lambda loss: CTKD(loss, lowest=3.0, span=0.0).requires_grad_(False),
        lambda loss: dts(loss, initial=3.0, lowest=3.0, highest=3.0),
    ],
)
def test_a_temperature_that_is_held_is_that_of_the_term(term, modified):
    given = both()
    bare, modified = met(term(temperature=3.0)).double(), met(modified(term())).double()
    for a, b in zip(value_and_gradient(modified, *given), value_and_gradient(bare, *given), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


# 0 * inf in the gradient of the temperature, or a temperature that is read as a plain number
@pytest.mark.parametrize("term", TEMPERED)
def test_the_gradient_of_a_learnt_temperature_passes_every_term(term):
    given = both()
    loss = met(CTKD(term(), lowest=2.0, span=4.0)).double()
    call(loss, *given).backward()
    share = torch.ones(()).double().sigmoid()
    above, below = ((2 + 4 * share + step).item() for step in (1e-4, -1e-4))
    values = [call(met(term(temperature=t)).double(), *given).detach() for t in (above, below)]
    slope = (values[0] - values[1]) / 2e-4
    torch.testing.assert_close(loss.theta.grad, -(slope * 4 * share * (1 - share)).reshape(1), rtol=1e-5, atol=1e-9)


@every_kind
def test_gradient(kind):
    student, teacher, target = both()
    loss = KINDS[kind](kd()).double()
    # each call is the first: some modifiers are not the same after a step
    assert torch.autograd.gradcheck(lambda s: call(deepcopy(loss), s, teacher, target), student)


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_finite_at_extreme_logits(kind, dtype):
    far = 1e4 * torch.tensor([[1, -1, 0, 1, -1, 0, 0], [-1, 1, 1, -1, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0], [0.0] * 7])
    for student in (far, -far, far.roll(1, 1), torch.zeros_like(far)):
        loss = KINDS[kind](kd())
        student = student.to(dtype, copy=True).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
            value = call(loss, student, far.to(dtype), torch.tensor([0, 1, 2, 3]))
        inputs = [student, *loss.parameters()]
        gradients = torch.autograd.grad(value, inputs)
        assert value.isfinite()
        assert all(gradient.isfinite().all() for gradient in gradients)


@every_kind
def test_half_precision_is_raised(kind):
    student, teacher, target = both(dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = call(KINDS[kind](kd()), student, teacher, target)
    assert value.dtype is torch.float32
    if kind in ("noisy", "added"):  # other random numbers in double precision
        exact = call(KINDS[kind](kd()), student.float(), teacher.float(), target).double()
    else:
        exact = call(KINDS[kind](kd()).double(), student.double(), teacher.double(), target)
    torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "renormalise_both"])  # which has no place for some labels
def test_labels_as_probabilities(kind):
    student, teacher, target = both()
    hard, soft = (
        call(KINDS[kind](logit.DKD()).double(), student, teacher, y)
        for y in (target, F.one_hot(target, CLASSES).double())
    )
    torch.testing.assert_close(soft, hard)


@every_kind
def test_the_state_goes_through_a_checkpoint(kind, tmp_path):
    given = both(dtype=torch.float32)
    loss, other = KINDS[kind](kd()), KINDS[kind](kd())
    for _ in range(3):
        call(loss, *given)
    for parameter in loss.parameters():
        parameter.data.add_(0.5)
    torch.save(loss.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(call(other, *given), call(loss, *given))


@every_kind
def test_a_copy_goes_its_own_way(kind):
    given = both(dtype=torch.float32)
    loss = KINDS[kind](kd())
    call(loss, *given).backward()
    copy = deepcopy(loss)
    state = {name: value.clone() for name, value in copy.state_dict().items()}
    first = call(loss, *given)
    assert all(torch.equal(value, state[name]) for name, value in copy.state_dict().items())
    assert torch.equal(call(copy, *given), first)


@every_kind
def test_nothing_is_written_in_eval_mode(kind):
    given = both(dtype=torch.float32)
    loss = KINDS[kind](kd()).eval()
    before = deepcopy(loss.state_dict())
    first, second = call(loss, *given), call(loss, *given)
    assert torch.equal(first, second)
    assert all(torch.equal(value, before[name]) for name, value in loss.state_dict().items())


# Two set the temperature, which is refused; the last reads labels, some of which have no place after the cut.
PAIRS = set(product(KINDS, KINDS)) - set(product(("ctkd", "dts"), repeat=2)) - {("renormalise_both", "dts")}


@pytest.mark.parametrize(("outer", "inner"), sorted(PAIRS))
def test_any_two_in_any_order(outer, inner):
    student, teacher, target = both()
    loss = KINDS[outer](KINDS[inner](kd())).double()
    value, gradient = value_and_gradient(loss, student, teacher, target)
    assert value.shape == ()
    assert value.isfinite()
    assert gradient.shape == student.shape
    assert gradient.isfinite().all()


def test_all_of_them_at_once():
    student, teacher, target = both()
    loss = kd()
    for kind in ("bucket", "standardised", "confident", "correct", "noisy", "crossed", "ctkd"):
        loss = KINDS[kind](loss)
    loss = loss.double()
    value = call(loss, student, teacher, target)
    value.backward()
    assert value > 0
    assert loss.theta.grad.isfinite()


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("ctkd", "dts")])
def test_a_temperature_may_be_set_outside_or_inside(kind):
    given = both()
    values = [
        call(loss.double(), *given)
        for loss in (
            CTKD(KINDS[kind](kd())),
            KINDS[kind](CTKD(kd())),
            KINDS[kind](kd(CTKD(kd()).current(None, None, None).item())),
        )
    ]
    torch.testing.assert_close(values[1], values[0])
    torch.testing.assert_close(values[2], values[0], rtol=1e-6, atol=0)


def test_standardised_before_or_after_the_cut():
    student, teacher, target = both()
    outside = call(Standardised(TopK(kd(), k=3, tail="renormalise_both")), student, teacher, target)
    inside = call(TopK(Standardised(kd()), k=3, tail="renormalise_both"), student, teacher, target)
    z = [(x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True) for x in (student, teacher)]
    cut_then = call(TopK(kd(), k=3, tail="renormalise_both"), *z, target)
    top = teacher.topk(3).indices
    k = [(x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True) for x in (student.gather(1, top), teacher.topk(3)[0])]
    torch.testing.assert_close(outside, cut_then)
    torch.testing.assert_close(inside, call(kd(), *k, target))
    assert (outside - inside).abs() > 0.01


def test_a_mask_and_standardisation_commute_but_for_the_confidence():
    given = both()
    a, b = Standardised(CorrectnessMask(kd())), CorrectnessMask(Standardised(kd()))
    torch.testing.assert_close(call(a, *given), call(b, *given))
    a, b = Standardised(ConfidenceMask(kd(), 0.6)), ConfidenceMask(Standardised(kd()), 0.6)
    assert call(a, *given) < call(b, *given)


def test_temperatures_are_set_once():
    for outer, inner in product((CTKD, dts), (CTKD, dts)):
        with pytest.raises(InputError, match=r"loss must have a temperature that \w+ alone sets, got (CTKD|DTS)"):
            outer(Standardised(inner(kd())))


def test_a_term_without_temperature_is_refused_with_those_that_have_one():
    with pytest.raises(InputError, match=r"for CTKD to set \(.*\bDKD\b.*\bDivergenceKD\b.*\bKD\b.*\), got LogitMSE"):
        CTKD(Standardised(logit.LogitMSE()))


@pytest.mark.parametrize("kind", ["ctkd", "dts"])
def test_the_terms_own_temperature_stands_again(kind):
    loss = KINDS[kind](Standardised(kd(temperature=2.5)))
    assert isinstance(loss, TemperatureModifier)
    call(loss, *both(dtype=torch.float32))
    assert loss.loss.loss.temperature == 2.5
    with pytest.raises(InputError):
        call(loss, torch.zeros(8, 7), torch.zeros(8, 5), torch.zeros(8, dtype=torch.long))
    assert loss.loss.loss.temperature == 2.5
