import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler
from torch.nn import functional as F

from lit_distill.errors import InputError
from lit_distill.metrics import RidgeProbe


def samples(count=200, width=6, classes=4):
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(classes, (count,), generator=generator)
    mixing = torch.randn(classes, width, generator=generator)
    return mixing[target] + torch.randn(count, width, generator=generator), target


def fitted(features, target, penalty=1e-3, sizes=200, classes=4):
    probe = RidgeProbe(classes, penalty)
    for rows in torch.arange(len(features)).split(sizes):
        probe.update(features[rows], target[rows])
    probe.fit()
    return probe


@pytest.mark.parametrize("penalty", [1e-3, 0.5])
def test_is_ridge_regression_on_standardised_features(penalty):
    features, target = samples()
    scaler = StandardScaler().fit(features.double())
    reference = Ridge(alpha=penalty * len(features)).fit(scaler.transform(features.double()), F.one_hot(target, 4))
    expected = torch.from_numpy(reference.predict(scaler.transform(features[:50].double())))
    torch.testing.assert_close(fitted(features, target, penalty)(features[:50]), expected, rtol=1e-9, atol=1e-9)


def test_batches_and_their_order_do_not_matter():
    features, target = samples()
    whole, order = fitted(features, target), torch.randperm(200, generator=torch.Generator().manual_seed(1))
    pieces = fitted(features[order], target[order], sizes=7)
    torch.testing.assert_close(pieces(features), whole(features), rtol=1e-9, atol=1e-9)


def test_neither_scale_nor_shift_of_a_feature_matters():
    features, target = samples()
    features = features.double()
    moved = features * torch.logspace(-3, 3, 6, dtype=torch.float64) + torch.arange(6)
    torch.testing.assert_close(fitted(moved, target)(moved), fitted(features, target)(features), rtol=1e-7, atol=1e-7)


def test_a_feature_that_never_changes_has_no_say():
    features, target = samples()
    constant = torch.cat([features, torch.full((200, 2), 0.1)], dim=1)
    probe = fitted(constant, target)
    torch.testing.assert_close(probe(constant), fitted(features, target)(features))
    constant[:, 6:] += 1
    torch.testing.assert_close(probe(constant), fitted(features, target)(features))


def test_without_any_information_it_knows_the_shares_of_the_classes():
    target = torch.tensor([0, 0, 0, 1])
    probe = fitted(torch.zeros(4, 3), target, classes=2)
    torch.testing.assert_close(probe(torch.zeros(1, 3)), torch.tensor([[0.75, 0.25]]).double())


def test_half_precision_features():
    features, target = samples()
    half = features.bfloat16()
    torch.testing.assert_close(fitted(half, target)(half), fitted(half.double(), target)(half.double()))


def test_bad_input():
    with pytest.raises(InputError, match="penalty: 0 given"):
        RidgeProbe(3, penalty=0)
    with pytest.raises(InputError, match="classes: 0 given"):
        RidgeProbe(0)
    with pytest.raises(InputError, match="features: none given"):
        RidgeProbe(3).fit()
