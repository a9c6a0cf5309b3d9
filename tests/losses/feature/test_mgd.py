import pytest
import torch
from torch.autograd import gradcheck

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import MGD
from lit_distill.losses.feature import keep_mask, mgd
from lit_distill.losses.feature.mgd import MaskedGenerator

LIKE = torch.zeros(64, 32, 6, 7)


def outputs(channels=3, size=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Outputs(torch.zeros(4, 10), {"a": torch.randn(4, channels, size, size, generator=generator)})


def built(**given):
    torch.manual_seed(0)
    loss = MGD(layers={"a": "a"}, **given)
    loss.build(outputs(3), outputs(5))
    return loss


def value(loss):
    return loss(outputs(3), outputs(5, seed=1), torch.zeros(4)).item()


@pytest.mark.parametrize(("mask", "shape"), [("channels", (64, 32, 1, 1)), ("positions", (64, 1, 6, 7))])
def test_a_mask_has_the_wanted_share(mask, shape):
    kept = keep_mask(LIKE, 0.65, mask, torch.Generator().manual_seed(0))
    assert kept.shape == shape
    assert set(kept.unique().tolist()) == {0.0, 1.0}
    # five standard deviations of a mean of so many
    assert abs(kept.mean() - 0.35) < 5 * (0.35 * 0.65 / kept.numel()) ** 0.5
    assert len(kept.flatten(1).unique(dim=0)) == 64  # each sample has a mask of its own
    assert keep_mask(LIKE, 0.0, mask).min() == 1


def test_a_mask_comes_from_its_generator_alone():
    first, second = (keep_mask(LIKE, 0.5, "channels", torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)


def test_what_is_masked_is_not_seen_and_the_rest_not_scaled():
    generator = MaskedGenerator(3, 5)
    student, mask = torch.randn(2, 3, 4, 4), keep_mask(torch.zeros(2, 5, 4, 4), 0.5, "channels")
    aligned = generator.align(student)
    generator.align = torch.nn.Identity()
    torch.testing.assert_close(generator(aligned, mask), generator.generation(torch.where(mask > 0, aligned, 0)))
    disturbed = aligned + 100 * (1 - mask)
    torch.testing.assert_close(generator(disturbed, mask), generator(aligned, mask))


def test_channels_are_aligned_only_where_they_differ():
    names = [name for name, _ in MaskedGenerator(5, 5).named_parameters()]
    assert names == ["generation.0.weight", "generation.0.bias", "generation.2.weight", "generation.2.bias"]
    assert MaskedGenerator(3, 5).align.weight.shape == (5, 3, 1, 1)


def test_a_sum_over_entries_and_a_mean_over_samples():
    generated, teacher = torch.randn(4, 5, 3, 3, dtype=torch.float64), torch.randn(4, 5, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(mgd(generated, teacher), 45 * (generated - teacher).square().mean())
    torch.testing.assert_close(mgd(generated.repeat(2, 1, 1, 1), teacher.repeat(2, 1, 1, 1)), mgd(generated, teacher))
    assert gradcheck(lambda x: mgd(x, teacher), generated.requires_grad_())
    assert mgd(teacher, teacher) == 0


def test_masks_change_from_step_to_step_and_repeat_with_the_seed():
    loss, again, other = built(), built(), built(seed=1)
    other.load_state_dict({name: x for name, x in loss.state_dict().items() if "extra" not in name}, strict=False)
    steps = [value(loss) for _ in range(3)]
    assert len(set(steps)) == 3
    assert [value(again) for _ in range(3)] == steps
    assert value(other) not in steps


def test_a_resumed_run_draws_the_masks_of_an_uninterrupted_one():
    loss, resumed = built(), built()
    value(loss)
    resumed.load_state_dict(loss.state_dict())
    assert value(resumed) == value(loss)


def test_no_mask_in_eval_mode():
    loss = built().eval()
    whole = loss.generators[0](outputs(3).features["a"], torch.ones(1))
    assert value(loss) == value(loss) == mgd(whole, outputs(5, seed=1).features["a"]).item()


@pytest.mark.parametrize("mask", ["channels", "positions"])
def test_a_larger_map_is_averaged_and_every_weight_learns(mask):
    loss = MGD(layers={"a": "a"}, mask=mask, ratio=0.4)
    student, teacher = outputs(3, size=8), outputs(5, size=4, seed=1)
    loss.build(student, teacher)
    loss(student, teacher, torch.zeros(4)).backward()
    assert all(p.grad.abs().max() > 0 for p in loss.parameters())


def test_generates_the_map_from_what_is_left():
    loss = built(ratio=0.15)
    first = sum(value(loss) for _ in range(5))
    optimizer = torch.optim.Adam(loss.parameters(), lr=3e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss(outputs(3), outputs(5, seed=1), torch.zeros(4)).backward()
        optimizer.step()
    assert sum(value(loss) for _ in range(5)) < 0.8 * first


def test_half_precision_is_summed_in_float32():
    generated, teacher = 300 * torch.randn(2, 8, 4, 4), torch.zeros(2, 8, 4, 4)
    given = mgd(generated.half(), teacher.half())  # whose squares do not fit
    torch.testing.assert_close(given, mgd(generated.half().float(), teacher))
    assert given.isfinite()


def test_bad_input():
    with pytest.raises(InputError, match=r"ratio must be from 0 to below 1, got 1\.0"):
        MGD(ratio=1.0)
    with pytest.raises(InputError, match="mask must be channels or positions, got 'tokens'"):
        MGD(mask="tokens")
    with pytest.raises(InputError, match="maps must be of one shape"):
        mgd(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 2, 2))
    with pytest.raises(InputError, match=r"got no build\(\)"):
        MGD(layers={"a": "a"})(outputs(), outputs(), torch.zeros(4))
