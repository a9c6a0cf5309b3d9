from copy import deepcopy

import pytest
import torch

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import LogitMSE, NoisyTeacher
from lit_distill.losses.modifiers import noisy

from .common import both, call, kd


def drawn(logits, **kwargs):
    return noisy(logits, torch.Generator().manual_seed(0), **kwargs)


@pytest.mark.parametrize("noise", ["multiplicative", "additive"])
def test_standard_deviation_and_share(noise):
    logits = torch.full((4000, 10), 5.0)
    difference = drawn(logits, std=0.2, probability=0.3, noise=noise) - logits
    hit = difference.abs().sum(-1) > 0
    scale = 5 if noise == "multiplicative" else 1
    assert hit.float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert difference[hit].std().item() == pytest.approx(0.2 * scale, rel=0.03)
    assert difference[hit].mean().item() == pytest.approx(0, abs=0.02 * scale)
    assert (difference[hit] != 0).all()  # noise of its own on every logit


def test_noise_is_new_at_each_step_and_the_same_from_the_same_seed():
    student, teacher, target = both()
    a, b, other = (NoisyTeacher(kd(), seed=seed) for seed in (0, 0, 1))
    values = [call(a, student, teacher, target).item() for _ in range(4)]
    assert len(set(values)) == 4
    assert [call(b, student, teacher, target).item() for _ in range(4)] == values
    assert call(other, student, teacher, target).item() not in values


def test_no_other_random_numbers_are_used_up():
    state = torch.get_rng_state()
    call(NoisyTeacher(kd()), *both())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_checkpoint_holds_where_the_noise_has_come_to(tmp_path):
    given = both()
    loss, resumed = NoisyTeacher(kd()), NoisyTeacher(kd())
    for _ in range(3):
        call(loss, *given)
    torch.save(loss.state_dict(), tmp_path / "state.pt")
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [call(resumed, *given).item() for _ in range(2)] == [call(loss, *given).item() for _ in range(2)]


def test_two_in_one_objective_with_seeds_of_their_own_differ():
    _, teacher, _ = both()
    losses = [NoisyTeacher(LogitMSE(), probability=1.0, noise="additive", seed=seed) for seed in (0, 1)]
    values = [call(loss, teacher, teacher, None).item() for loss in losses]
    assert values[0] != values[1]


def test_the_teachers_answer_itself_stays_as_it_is():
    student, teacher, target = both()
    before = teacher.clone()
    NoisyTeacher(kd(), probability=1.0)(Outputs(student), Outputs(teacher), target)
    assert torch.equal(teacher, before)


def test_none_in_eval_mode():
    given = both()
    loss = NoisyTeacher(kd(), probability=1.0)
    copy = deepcopy(loss)
    assert torch.equal(call(loss.eval(), *given), call(kd(), *given))
    assert torch.equal(call(loss.train(), *given), call(copy, *given))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"std": -0.1}, "std must be 0 or positive, got -0.1"),
        ({"probability": 2.0}, r"probability must be in \[0, 1\], got 2.0"),
        ({"noise": "salt"}, "noise must be multiplicative or additive, got 'salt'"),
    ],
)
def test_bad_hyperparameters(given, message):
    with pytest.raises(InputError, match=message):
        NoisyTeacher(kd(), **given)
