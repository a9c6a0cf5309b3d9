import pytest
import torch
from torch import nn

from lit_distill.data import ClassBatches, Digits
from lit_distill.dataset import Committee
from lit_distill.dataset.networks.committee import voting_weights
from lit_distill.errors import InputError
from lit_distill.models import CondensationConvNet

from .steps import pixels, step


def teachers(count=4):
    return {f"net{k}": nn.Linear(2, 2) for k in range(count)}


def test_one_teacher():
    networks = teachers(1)
    drawn = Committee(networks).draw(step(pixels(images_per_class=3)))
    assert drawn.networks == (networks["net0"],)
    assert drawn.weights.tolist() == [[1.0]] * 3


def test_teachers_are_left_alone():
    networks = teachers()
    committee = Committee(networks).train()
    for network in committee.draw(step(pixels())).networks:
        assert not network.training
        assert not any(p.requires_grad for p in network.parameters())
    assert list(committee.parameters()) == []
    assert committee.state_dict() == {}


def test_weights_follow_the_prior():
    prior = torch.tensor([60.0, 65.0, 70.0])
    weights = voting_weights(prior)
    torch.testing.assert_close(weights[1:] / weights[:-1], torch.full((2,), torch.e))
    torch.testing.assert_close(voting_weights(prior + 7), weights)
    assert voting_weights(prior, temperature=1e-2).tolist() == [0, 0, 1]


def test_voters_are_drawn_for_each_image_once_and_for_all():
    committee = Committee(teachers(), prior={f"net{k}": 10.0 * k for k in range(4)}, voters=2)
    synthetic = pixels(images_per_class=8)
    first, later = (committee.draw(step(synthetic, number=number)) for number in (0, 7))
    assert torch.equal(first.weights, later.weights)
    other = committee.draw(step(synthetic, seed=1))
    assert first.weights.shape != other.weights.shape or not torch.equal(first.weights, other.weights)
    assert ((first.weights > 0).sum(1) == 2).all()
    torch.testing.assert_close(first.weights.sum(1), torch.ones(8))
    assert len({tuple(row.nonzero().flatten().tolist()) for row in first.weights}) > 1


def test_teachers_of_other_data():
    data = ClassBatches(Digits(limit=40), per_class=1)
    of_digits = CondensationConvNet((1, 8, 8), num_classes=10, width=2, depth=1)
    few = CondensationConvNet((1, 8, 8), num_classes=7, width=2, depth=1)
    wide = CondensationConvNet((3, 8, 8), num_classes=10, width=2, depth=1)
    Committee({"fine": of_digits}).start(data, torch.device("cpu"))
    with pytest.raises(InputError, match=r"teachers\.few knows 7 classes, and the data has 10"):
        Committee({"fine": of_digits, "few": few}).start(data, torch.device("cpu"))
    with pytest.raises(InputError, match="CondensationConvNet takes images"):
        Committee({"wide": wide}).start(data, torch.device("cpu"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"teachers": {}}, "teachers: none given"),
        ({"prior": {"net0": 50.0}}, "prior must be of net0, net1, net2, net3, not of net0"),
        ({"voters": 5}, "voters must be from 1 to the number of teachers, 4, not 5"),
        ({"temperature": 0.0}, "temperature must be positive, not 0"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        Committee(**({"teachers": teachers()} | arguments))
