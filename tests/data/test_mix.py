import random

import pytest
import torch

from lit_distill.data.mix import CutMix, Mixup, MixupOrCutMix
from lit_distill.errors import InputError

MIXES = [Mixup(0.3), Mixup(2.0), CutMix(1.0), CutMix(0.2), MixupOrCutMix()]


@pytest.fixture
def batch():
    """Every pixel of an image is the number of its class."""
    target = torch.tensor([3, 1, 0, 2, 2, 3, 1, 1])
    return target[:, None, None, None].expand(-1, 2, 6, 10).float(), target


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("seed", range(5))
def test_labels_are_mixed_as_pixels_are(mix, seed, batch):
    x, target = batch
    mixed, soft = mix(x, target, 4, random.Random(seed))
    torch.testing.assert_close(soft.sum(1), torch.ones(8))
    assert soft.min() >= 0
    torch.testing.assert_close(mixed.mean((1, 2, 3)), soft @ torch.arange(4.0))


@pytest.mark.parametrize("mix", MIXES)
def test_pairs_do_not_cross_even_shares(mix, batch):
    x, target = batch
    whole = mix(x, target, 4, random.Random(1))
    halves = [mix(x[part], target[part], 4, random.Random(1)) for part in (slice(4), slice(4, 8))]
    for i in range(2):
        torch.testing.assert_close(torch.cat([half[i] for half in halves]), whole[i])


@pytest.mark.parametrize("mix", MIXES)
def test_last_of_an_odd_batch_stays(mix, batch):
    x, target = batch
    mixed, soft = mix(x[:7], target[:7], 4, random.Random(0))
    torch.testing.assert_close(mixed[-1], x[6])
    torch.testing.assert_close(soft[-1], torch.eye(4)[1])


@pytest.mark.parametrize("mix", MIXES)
def test_result_is_a_function_of_the_generator(mix, batch):
    x, target = batch
    first, again = (mix(x, target, 4, random.Random(0))[1] for _ in range(2))
    assert torch.equal(first, again)
    assert any(not torch.equal(mix(x, target, 4, random.Random(seed))[1], first) for seed in range(1, 5))


def test_cutmix_pastes_one_rectangle():
    x = torch.zeros(2, 1, 32, 24)
    x[1] = 1
    for seed in range(20):
        mixed, soft = CutMix()(x, torch.tensor([0, 1]), 2, random.Random(seed))
        rows, columns = mixed[0, 0].any(1), mixed[0, 0].any(0)
        assert torch.equal(mixed[0, 0].bool(), rows[:, None] & columns)
        for side in (rows, columns):
            assert side.long().diff().abs().sum() <= 2  # one run
        torch.testing.assert_close(soft[0, 1], mixed[0].mean())


def test_mean_weight_is_one_half():
    x, target = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1), torch.tensor([0, 1])
    weights = torch.stack([Mixup(1.0)(x, target, 2, random.Random(seed))[1][0, 0] for seed in range(2000)])
    assert abs(weights.mean() - 0.5) < 5 * (1 / 12 / 2000) ** 0.5
    assert abs(weights.var() - 1 / 12) < 5 * (1 / 180 / 2000) ** 0.5


@pytest.mark.parametrize(("probability", "hard"), [(0.0, False), (1.0, True)])
def test_probability_chooses(probability, hard, batch):
    x, target = batch
    mixed, _ = MixupOrCutMix(cutmix_probability=probability)(x, target, 4, random.Random(0))
    assert bool((mixed == mixed.round()).all()) == hard


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan")])
@pytest.mark.parametrize("mix", [Mixup, CutMix])
def test_alpha_must_be_positive(mix, alpha):
    with pytest.raises(InputError, match=r"^alpha: (0\.0|-1\.0|nan) .* above 0$"):
        mix(alpha)


def test_errors_of_the_choice_name_its_arguments():
    with pytest.raises(InputError, match=r"^mixup_alpha: 0"):
        MixupOrCutMix(mixup_alpha=0)
    with pytest.raises(InputError, match=r"^cutmix_alpha: 0"):
        MixupOrCutMix(cutmix_alpha=0)
    with pytest.raises(InputError, match=r"^cutmix_probability: 1.5 is not in \[0, 1\]"):
        MixupOrCutMix(cutmix_probability=1.5)
