import pytest
import torch
from torch import nn

from lit_distill.data import ClassBatches, Digits
from lit_distill.dataset.coreset import herding, k_center, selected
from lit_distill.dataset.synthetic.selected import Selected
from lit_distill.errors import InputError
from lit_distill.models import MLP

SEED = 4


def features(count=40, dim=5):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("select", ["random", "herding", "k_center"])
def test_no_image_twice(select):
    x = torch.ones(12, 2)  # all alike
    places = selected(x, 12, select, torch.Generator().manual_seed(0))
    assert sorted(places.tolist()) == list(range(12))


def test_herding_follows_the_mean_better_than_chance():
    x = features()

    def error(places):
        return (x[places].mean(0) - x.mean(0)).norm()

    by_chance = [error(selected(x, 8, "random", torch.Generator().manual_seed(s))) for s in range(50)]
    assert error(herding(x, 8)) < min(by_chance)
    assert error(herding(x, 40)) < 1e-6


def test_centres_cover_all_within_twice_the_best_radius():
    x = features(14, 2)

    def radius(places):
        return torch.cdist(x, x[places]).amin(1).amax()

    best = min(radius(trio) for trio in torch.combinations(torch.arange(14), 3))
    assert radius(k_center(x, 3)) <= 2 * best + 1e-6


def test_selection_does_not_depend_on_the_order_of_images():
    x, order = features(), torch.randperm(40, generator=torch.Generator().manual_seed(1))
    for choose in (herding, k_center):
        assert torch.equal(order[choose(x[order], 6)], choose(x, 6))


@pytest.mark.parametrize("count", [0, 41])
def test_count(count):
    with pytest.raises(InputError, match=f"count must be from 1 to 40, the number of images, not {count}"):
        selected(features(), count, "herding")


def data():
    batches = ClassBatches(Digits())
    batches.setup("fit")
    return batches


def chosen(select, seed=SEED, **arguments):
    synthetic, source = Selected(3, select, **arguments), data()
    synthetic.build(source.num_classes, source.input_shape)
    synthetic.start(source, torch.Generator().manual_seed(seed))
    return synthetic, source


@pytest.mark.parametrize("select", ["random", "herding", "k_center"])
def test_selected_images_are_real_and_of_their_class(select):
    synthetic, source = chosen(select)
    images, targets = synthetic.decode(torch.tensor([7, 2]))
    assert images.shape == (2, 3, 1, 8, 8)
    assert targets.tolist() == [[7] * 3, [2] * 3]
    for i, c in enumerate((7, 2)):
        same = (images[i][:, None] == source.images_of(c)).flatten(2).all(2)
        assert same.any(1).all()
        assert len(images[i].unique(dim=0)) == 3
    assert [p for group in synthetic.parameter_groups() for p in group["params"]] == []


def test_only_random_selection_depends_on_the_seed():
    for select, same in (("random", False), ("herding", True), ("k_center", True)):
        one, other = (chosen(select, seed)[0].images for seed in (0, 1))
        assert torch.equal(one, other) == same


def test_features_of_a_network():
    network = MLP(input_shape=(1, 8, 8), hidden=[12])
    synthetic, source = chosen("herding", features=network)
    seen = {}
    network.fc.register_forward_pre_hook(lambda module, args: seen.update(x=args[0]))
    network(source.images_of(0))
    real = source.images_of(0)
    assert torch.equal(synthetic.images[0], real[herding(seen["x"], 3)])
    assert not torch.equal(synthetic.images, chosen("herding")[0].images)
    assert set(synthetic.state_dict()) == {"images"}


def test_more_than_a_class_has():
    synthetic, source = Selected(1000), data()
    synthetic.build(source.num_classes, source.input_shape)
    with pytest.raises(InputError, match="images_per_class must be at most"):
        synthetic.start(source, torch.Generator())


def test_unknown_way():
    with pytest.raises(InputError, match="select: 'best' given to Selected; accepted are random, herding, k_center"):
        Selected(select="best")
    with pytest.raises(InputError, match="select: 'best' given"):
        selected(features(), 1, "best")


def test_a_network_without_a_classifier():
    with pytest.raises(InputError):
        chosen("herding", features=nn.Flatten())
