import itertools

import pytest
import torch
from torch import nn

from lit_distill.dataset import CDA, Committee, SRe2L
from lit_distill.dataset.networks.committee import Votes
from lit_distill.dataset.objectives.inversion import agreement, statistics_gap, total_variation
from lit_distill.errors import InputError
from lit_distill.models import CondensationConvNet

from .steps import pixels, step

ALONE = torch.ones(1)


def teacher(seed=0):
    torch.manual_seed(seed)
    network = CondensationConvNet((1, 8, 8), num_classes=3, width=4, depth=2, norm="batch").requires_grad_(False)
    for _ in range(3):
        network(torch.randn(20, 1, 8, 8) + 0.5)
    return network.eval()


def still(**kwargs):
    """Without anything random."""
    return {"smallest_crop": 1.0, "flip": False, "jitter": 0} | kwargs


def votes(*networks, images_per_class=2):
    return Votes(networks, torch.full((images_per_class, len(networks)), 1 / len(networks)))


def test_gap_by_hand():
    z = torch.tensor([[[0.0], [2.0]]])[..., None]  # one group of two images with one channel and one place
    gap = statistics_gap(z, torch.tensor([4.0]), torch.tensor([3.0]), ALONE)
    # mean 1 is 3 away, the biased variance 1 (unbiased it were 2) is 2 away; nothing is squared
    torch.testing.assert_close(gap, torch.tensor([5.0]))


def test_gap_is_a_norm_over_channels():
    z = torch.zeros(1, 2, 2, 3, 3)
    gap = statistics_gap(z, torch.tensor([3.0, 4.0]), torch.zeros(2), ALONE)
    torch.testing.assert_close(gap, torch.tensor([5.0]))


def test_no_gap_where_the_statistics_are_the_batch_s():
    z = torch.randn(1, 5, 3, 4, 4)
    mean, variance = z.mean((0, 1, 3, 4)), z.var((0, 1, 3, 4), unbiased=False)
    assert statistics_gap(z, mean, variance, ALONE).item() < 1e-6


def test_processes_find_the_gap_of_the_whole_group(monkeypatch):
    z, mean, variance = torch.randn(2, 5, 3, 4), torch.randn(3), torch.rand(3)
    whole = statistics_gap(z, mean, variance, ALONE)
    parts = z.split([3, 2], dim=1)
    rows = [torch.stack([p.mean((1, 3)), p.var((1, 3), unbiased=False)]) for p in parts]
    monkeypatch.setattr("lit_distill.dataset.objectives.inversion.gathered", lambda own: torch.stack(rows))
    share = torch.tensor([0.6, 0.4])
    torch.testing.assert_close(statistics_gap(parts[0], mean, variance, share), whole)


def test_listens_to_the_input_of_batch_norm():
    network = teacher()
    images, targets = torch.randn(1, 6, 1, 8, 8), torch.zeros(1, 6, dtype=torch.long)
    layer = network.blocks[0].norm
    z = network.blocks[0].conv(images[0])
    wanted = statistics_gap(z[None], layer.running_mean, layer.running_var, ALONE)
    torch.testing.assert_close(agreement(network, images, targets, ALONE).gaps[0], wanted)
    assert not any(m._forward_pre_hooks for m in network.modules())


def test_statistics_stay_as_they_are():
    network = teacher()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    agreement(network, torch.randn(1, 6, 1, 8, 8), torch.zeros(1, 6, dtype=torch.long), ALONE)
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)


def test_groups_do_not_see_each_other():
    network, images = teacher(), torch.randn(2, 3, 1, 8, 8)
    targets = torch.arange(3).expand(2, -1)
    both = agreement(network, images, targets, ALONE)
    for g in range(2):
        alone = agreement(network, images[g : g + 1], targets[:1], ALONE)
        torch.testing.assert_close((alone.cross_entropy[0], alone.gaps[:, 0]), (both.cross_entropy[g], both.gaps[:, g]))


def test_loss_is_a_sum_over_batches_of_one_image_of_each_class():
    synthetic, method = pixels(images_per_class=2), SRe2L(**still())
    whole = method(step(synthetic), votes(teacher()))
    parts = []
    for i in range(2):
        alone = pixels(images_per_class=1)
        alone.images.data = synthetic.images.data[:, i : i + 1]
        parts.append(method(step(alone), votes(teacher(), images_per_class=1)))
    torch.testing.assert_close(sum(parts), whole)


def test_gradient():
    network = teacher().double()
    images = torch.randn(2, 3, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    method, targets = SRe2L(tv_weight=0.1, l2_weight=0.1), torch.arange(3).expand(2, -1)
    assert torch.autograd.gradcheck(lambda x: method.loss(votes(network), x, targets), images, fast_mode=True)


@pytest.mark.parametrize("weight", ["tv_weight", "l2_weight"])
def test_empty_images_have_a_gradient(weight):
    images = torch.zeros(1, 3, 1, 8, 8, requires_grad=True)
    method = SRe2L(**{weight: 1.0})
    method.loss(votes(teacher(), images_per_class=1), images, torch.arange(3)[None]).backward()
    assert images.grad.isfinite().all()


def test_total_variation_by_hand():
    x = torch.tensor([[0.0, 1.0], [0.0, 0.0]])[None, None, None]
    # left and right: 1, 0; above and below: 0, -1; along the diagonals 0 and -1
    torch.testing.assert_close(total_variation(x), torch.tensor([3.0]))


def test_what_is_random_is_the_same_for_a_batch():
    synthetic = pixels(classes=3, images_per_class=2)
    images = synthetic.images.detach()[:1].expand(3, -1, -1, -1, -1).transpose(0, 1)
    seen = SRe2L(jitter=3).seen(step(synthetic), images)
    torch.testing.assert_close(seen, seen[:, :1].expand_as(seen), rtol=0, atol=0)
    assert not torch.equal(seen, images)
    again, later = (SRe2L(jitter=3).seen(step(synthetic, number=n), images) for n in (0, 1))
    torch.testing.assert_close(again, seen, rtol=0, atol=0)
    assert not torch.equal(later, seen)
    one = images[:1].expand_as(images)
    assert not torch.equal(*SRe2L(jitter=3).seen(step(synthetic), one))


def test_rolls_at_most_as_far_as_it_may():
    synthetic = pixels(images_per_class=1)
    image = torch.zeros(1, 1, 1, 8, 8)
    image[..., 0, 0] = 1
    places = set()
    for number in range(60):
        seen = SRe2L(**still(jitter=2)).seen(step(synthetic, number=number), image)
        places.add(tuple(seen[0, 0, 0].nonzero()[0].tolist()))
    assert places == set(itertools.product(range(3), range(3)))


def test_whole_images():
    synthetic = pixels()
    images = synthetic.images.detach()
    for number in range(20):
        torch.testing.assert_close(SRe2L(**still()).seen(step(synthetic, number=number), images), images)


def test_curriculum_goes_from_whole_images_to_small_crops():
    cda = CDA(curriculum=100, smallest_crop=0.1)
    shares = [cda.least(number) for number in range(150)]
    assert shares[0] == 1
    assert shares[:101] == sorted(shares[:101], reverse=True)
    assert shares[100:] == pytest.approx([0.1] * 50)
    assert {SRe2L(smallest_crop=0.1).least(number) for number in (0, 100)} == {0.1}


def test_curriculum_decides_what_is_seen():
    synthetic = pixels()
    images = synthetic.images.detach()
    cda = CDA(curriculum=100, flip=False, jitter=0)
    torch.testing.assert_close(cda.seen(step(synthetic, number=0), images), images)
    assert not torch.allclose(cda.seen(step(synthetic, number=100), images), images)


@pytest.mark.parametrize("norm", ["instance", "none"])
def test_networks_without_batch_norm(norm):
    network = CondensationConvNet((1, 8, 8), num_classes=3, width=4, depth=2, norm=norm)
    with pytest.raises(InputError, match="CondensationConvNet has no BatchNorm with running statistics") as error:
        SRe2L()(step(pixels()), votes(network))
    assert "\n" not in str(error.value)


def test_batch_norm_without_statistics():
    network = nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(InputError, match="Sequential has no BatchNorm with running statistics"):
        SRe2L()(step(pixels()), votes(network))


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (SRe2L, {"smallest_crop": 0.0}, r"smallest_crop must be in \(0, 1\], not 0"),
        (SRe2L, {"smallest_crop": 1.5}, r"smallest_crop must be in \(0, 1\], not 1.5"),
        (SRe2L, {"jitter": -1}, "jitter must be at least 0, not -1"),
        (CDA, {"curriculum": 0}, "curriculum must be at least 1, not 0"),
    ],
)
def test_wrong_numbers(kind, arguments, message):
    with pytest.raises(InputError, match=message):
        kind(**arguments)


def test_a_committee_is_heard_as_it_votes():
    one, two = teacher(0), teacher(1)
    synthetic = pixels(images_per_class=1)
    made, method = step(synthetic), SRe2L(**still())
    weights = torch.tensor([[0.3, 0.7]])
    losses = [method(made, votes(network, images_per_class=1)) for network in (one, two)]
    torch.testing.assert_close(method(made, Votes((one, two), weights)), (weights[0] * torch.stack(losses)).sum())


def test_members_that_do_not_vote_are_not_asked():
    synthetic = pixels(images_per_class=2)
    made, method = step(synthetic), SRe2L(**still())
    committee = Committee({str(seed): teacher(seed) for seed in range(3)}, voters=1)
    drawn = committee.draw(made)
    assert drawn.weights.sum(1).tolist() == [1, 1]
    parts = []
    for i, row in enumerate(drawn.weights):
        alone = pixels(images_per_class=1)
        alone.images.data = synthetic.images.data[:, i : i + 1]
        parts.append(method(step(alone), votes(drawn.networks[int(row.argmax())], images_per_class=1)))
    torch.testing.assert_close(method(made, drawn), sum(parts))
