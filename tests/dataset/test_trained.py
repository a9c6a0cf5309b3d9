import io

import pytest
import torch
from torch import nn

from lit_distill.data.mix import CutMix
from lit_distill.dataset import SiameseAugmentation, TrainedOnReal, TrainedOnSynthetic
from lit_distill.errors import InputError

from .steps import pixels, step


def network():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


def weights(net):
    return net[1].weight.detach().clone()


def walk(sampler, synthetic, numbers, augment=None):
    """Weights of the network that each step draws, before it is trained."""
    seen = []
    for number in numbers:
        made = step(synthetic, number=number, augment=augment)
        seen.append(weights(sampler.draw(made)))
        sampler.advance(made)
    return seen


SAMPLERS = [
    lambda **given: TrainedOnSynthetic(network, **({"steps": 3, "epochs": 2, "lr": 0.5} | given)),
    lambda **given: TrainedOnReal(network, **({"steps": 3, "epochs": 2, "mix": CutMix(), "batch_size": 5} | given)),
]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_network_for_some_steps(sampler):
    made = sampler()
    first = made.draw(step(pixels()))
    networks = []
    for number in range(7):
        now = step(pixels(), number=number)
        networks.append(made.draw(now))
        assert not any(p.requires_grad for p in networks[-1].parameters())
        made.advance(now)
    assert [net is first for net in networks] == [True] * 3 + [False] * 4
    assert networks[3] is networks[5] is not networks[6]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_is_trained_between_steps_but_not_after_the_last(sampler):
    made, now = sampler(steps=2), step(pixels())
    net = made.draw(now)
    states = [weights(net)]
    for _ in range(2):
        made.advance(now)
        states.append(weights(net))
    assert not torch.equal(states[0], states[1])
    assert torch.equal(states[1], states[2])


def test_one_step_a_network_is_never_trained():
    made, now = TrainedOnSynthetic(network, steps=1), step(pixels())
    net = made.draw(now)
    before = weights(net)
    made.advance(now)
    assert torch.equal(weights(net), before)
    assert not torch.equal(weights(made.draw(step(pixels(), number=1))), before)


def test_follows_the_synthetic_set():
    synthetic, now = pixels(), None
    made = TrainedOnSynthetic(network, steps=2, epochs=200, lr=0.5)
    now = step(synthetic)
    net = made.draw(now)
    made.advance(now)
    images, targets = (part.flatten(0, 1) for part in synthetic.whole())
    assert (net(images).argmax(1) == targets).all()
    assert synthetic.images.grad is None


def test_follows_real_images():
    made, now = TrainedOnReal(network, steps=2, epochs=200, lr=0.1), step(pixels())
    net = made.draw(now)
    made.advance(now)
    images, targets = (part.flatten(0, 1) for part in now.real)
    assert (net(images).argmax(1) == targets).all()


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("at", range(1, 6))
def test_resumed_within_the_life_of_a_network(sampler, at):
    synthetic, augment = pixels(), SiameseAugmentation()
    whole = walk(sampler(), synthetic, range(7), augment)
    first, second = sampler(), sampler()
    begun = walk(first, synthetic, range(at), augment)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    # a file that is written before the first step is as good as the one that was read
    third = sampler()
    third.load_state_dict(second.state_dict())
    for resumed in (second, third):
        torch.testing.assert_close(begun + walk(resumed, synthetic, range(at, 7), augment), whole, rtol=0, atol=0)


def test_cutmix_takes_the_place_of_cutout():
    now = step(pixels(), augment=SiameseAugmentation("cutout_flip"))
    plain = step(pixels(), augment=SiameseAugmentation("flip"))
    made = TrainedOnReal(network, mix=CutMix())
    batches = [list(made.batches(s, torch.Generator().manual_seed(0))) for s in (now, plain)]
    torch.testing.assert_close(*batches, rtol=0, atol=0)
    assert batches[0][0][1].shape == (12, 3)


def test_so_many_real_images_and_no_more():
    made = TrainedOnReal(network, images=7, batch_size=4)
    sizes = [len(x) for x, _ in made.batches(step(pixels()), torch.Generator())]
    assert sizes == [4, 3]


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (TrainedOnSynthetic, {"steps": 0}, "steps must be at least 1, not 0"),
        (TrainedOnSynthetic, {"epochs": -1}, "epochs must be at least 0, not -1"),
        (TrainedOnReal, {"batch_size": 0}, "batch_size must be at least 1, not 0"),
        (TrainedOnReal, {"images": 0}, "images must be at least 1, not 0"),
        (TrainedOnReal, {"lr": 0.0}, "lr must be positive, not 0"),
    ],
)
def test_bad_arguments(kind, given, message):
    with pytest.raises(InputError, match=message):
        kind(network, **given)
