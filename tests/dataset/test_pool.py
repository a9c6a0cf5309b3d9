import pytest
import torch
from torch import nn

from lit_distill.dataset import LearnedLabels, Pool, SiameseAugmentation
from lit_distill.errors import InputError

from .steps import pixels, step


def network():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


def walk(pool, synthetic, numbers):
    """Weights of the network that each step draws, before it is trained."""
    seen = []
    for number in numbers:
        made = step(synthetic, number=number)
        seen.append(pool.draw(made)[1].weight.clone())
        pool.advance(made)
    return seen


def test_ages_are_staggered():
    pool = Pool(network, size=4, updates=8)
    pool.draw(step(pixels()))
    assert [member.age for member in pool.members] == [0, 2, 4, 6]


def test_trains_the_network_it_drew_and_no_other():
    pool, made = Pool(network, size=3), step(pixels())
    drawn = pool.draw(made)
    before = [[p.clone() for p in member.network.parameters()] for member in pool.members]
    ages = [member.age for member in pool.members]
    pool.advance(made)
    for member, old, age in zip(pool.members, before, ages, strict=True):
        same = all(torch.equal(p, q) for p, q in zip(member.network.parameters(), old, strict=True))
        assert same == (member.network is not drawn)
        assert member.age == age + (member.network is drawn)


def test_training_is_a_regression_on_the_labels():
    synthetic = pixels(kind=LearnedLabels)
    pool, made = Pool(network, size=1, updates=400, lr=1e-2), step(synthetic)
    for _ in range(200):
        trained = pool.draw(made)
        pool.advance(made)
    torch.testing.assert_close(
        trained(synthetic.images.flatten(0, 1)), synthetic.labels.flatten(0, 1), rtol=0, atol=0.02
    )
    assert synthetic.images.grad is None


def test_an_old_network_is_replaced():
    pool, synthetic = Pool(network, size=1, updates=2), pixels()
    ages, networks = [], []
    for number in range(6):
        made = step(synthetic, number=number)
        networks.append(pool.draw(made))
        pool.advance(made)
        ages.append(pool.members[0].age)
    assert ages == [1, 2, 3, 0, 1, 2]
    assert networks[3] is networks[0]
    assert networks[4] is not networks[0]


def test_what_it_draws_requires_no_gradient():
    pool, synthetic = Pool(network, size=1), pixels()
    made = step(synthetic)
    for _ in range(2):
        assert not any(p.requires_grad for p in pool.draw(made).parameters())
        pool.advance(made)


def test_goes_on_as_it_would_have(tmp_path):
    synthetic = pixels(images_per_class=4)
    arguments = {"size": 2, "updates": 3, "batch_size": 5}
    whole = walk(Pool(network, **arguments), synthetic, range(12))
    first = Pool(network, **arguments)
    walk(first, synthetic, range(5))
    torch.save(first.state_dict(), tmp_path / "pool.pt")
    second = Pool(network, **arguments)
    for _ in range(2):  # also when it is saved again before the next step
        second.load_state_dict(torch.load(tmp_path / "pool.pt", weights_only=True))
        torch.save(second.state_dict(), tmp_path / "pool.pt")
    assert [torch.equal(x, y) for x, y in zip(walk(second, synthetic, range(5, 12)), whole[5:], strict=True)] == [
        True
    ] * 7


def test_networks_are_no_submodules():
    pool = Pool(network, size=2)
    pool.draw(step(pixels()))
    assert list(pool.parameters()) == []


def test_augments_what_it_trains_on():
    pools = [Pool(network, size=1) for _ in range(2)]
    for pool, augment in zip(pools, (None, SiameseAugmentation()), strict=True):
        made = step(pixels(), augment=augment)
        pool.draw(made)
        pool.advance(made)
    assert not torch.equal(*(pool.members[0].network[1].weight for pool in pools))


def test_another_size_after_a_resume():
    pool, other = Pool(network, size=2), Pool(network, size=3)
    pool.draw(step(pixels()))
    other.load_state_dict(pool.state_dict())
    with pytest.raises(InputError, match="size must be 2 as in the run that is resumed, not 3"):
        other.draw(step(pixels()))


@pytest.mark.parametrize("name", ["size", "updates", "batch_size"])
def test_wrong_numbers(name):
    with pytest.raises(InputError, match=f"{name} must be at least 1, not 0"):
        Pool(network, **{name: 0})
    with pytest.raises(InputError, match="lr must be positive, not 0"):
        Pool(network, lr=0)
