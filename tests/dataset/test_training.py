from dataclasses import replace

import pytest
import torch
from torch import nn

from lit_distill.dataset.augment import SiameseAugmentation
from lit_distill.dataset.recipe import RECIPES, Recipe, recipe_of
from lit_distill.dataset.training import View, train, without
from lit_distill.errors import InputError
from lit_distill.models.random_weights import seeded

CLASSES = 3
IMAGES = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
TARGETS = torch.arange(12) % CLASSES
SHORT = Recipe(epochs=3, lr=0.05, schedule="constant")


def small(dropout=0.0, seed=0):
    layers = [
        nn.Flatten,
        lambda: nn.Linear(64, 16),
        nn.ReLU,
        lambda: nn.Dropout(dropout),
        lambda: nn.Linear(16, CLASSES),
    ]
    return seeded(lambda: nn.Sequential(*(layer() for layer in layers)), seed)


def trained(recipe=SHORT, targets=TARGETS, seed=0, network=None, **arguments):
    generator = torch.Generator().manual_seed(seed)
    return train(network or small(), IMAGES, targets, recipe, generator, CLASSES, **arguments)


def weights(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])


TIMELESS = sorted(RECIPES.keys() - {"dd"})  # which has as many steps as were learned


@pytest.mark.parametrize("name", TIMELESS)
def test_every_recipe_learns_the_images(name):
    lr = 0.05 if recipe_of(name).optimizer == "sgd" else 0.01
    network = trained(replace(recipe_of(name), epochs=60, lr=lr))
    assert not network.training
    assert (network(IMAGES).argmax(-1) == TARGETS).float().mean() > 0.8


@pytest.mark.parametrize("name", TIMELESS)
def test_results_depend_on_the_generator_alone(name):
    recipe = replace(recipe_of(name), epochs=2, batch_size=5)
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        results.append(weights(trained(recipe, network=small(dropout=0.5))))
        assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(*results)
    assert not torch.equal(results[0], weights(trained(recipe, network=small(dropout=0.5), seed=1)))


def test_it_works_in_inference_mode():
    network = small()
    with torch.inference_mode():
        inside = trained(network=network)
    assert torch.equal(weights(inside), weights(trained()))


def test_probabilities_that_are_classes_are_classes():
    soft = nn.functional.one_hot(TARGETS, CLASSES).float()
    torch.testing.assert_close(weights(trained(targets=soft)), weights(trained()))


def test_a_teacher_that_is_certain_is_labels_at_temperature_1():
    class Certain(nn.Module):
        def forward(self, x):
            places = (x[:, None] == IMAGES).flatten(2).all(2).float().argmax(1)
            return 100.0 * nn.functional.one_hot(TARGETS[places], CLASSES)

    torch.testing.assert_close(weights(trained(teacher=Certain())), weights(trained()))


def test_the_temperature_of_a_teacher_is_not_made_up_for():
    # at a high temperature the divergence is a squared error of logits divided by it, and so by its square
    def first_step(temperature):
        network = small()
        recipe = Recipe(epochs=1, lr=1e4, momentum=0.0, weight_decay=0.0, schedule="constant", temperature=temperature)
        start = weights(network)
        return (weights(trained(recipe, network=network, teacher=small(seed=7))) - start).norm()

    torch.testing.assert_close(first_step(1e3) / first_step(2e3), torch.tensor(4.0), rtol=1e-2, atol=0)


def test_mixed_labels_weigh_as_their_parts():
    recipe = replace(SHORT, cutmix=1.0)
    view = View(recipe, torch.Generator().manual_seed(0), CLASSES, None, True)
    shares = []
    for _ in range(200):
        seen = view(torch.zeros(2, 1, 10, 10), torch.tensor([0, 1]))
        marked = view(torch.stack([torch.zeros(1, 10, 10), torch.ones(1, 10, 10)]), torch.tensor([0, 1]))
        foreign = (marked.x[0] != 0).float().mean()
        expected = 1 - marked.own if marked.other[0] == 1 else 0.0
        torch.testing.assert_close(foreign, torch.tensor(float(expected)), atol=1e-6, rtol=0)
        shares.append(seen.own)
    assert 0.4 < sum(shares) / 200 < 0.8
    assert all(view(IMAGES, TARGETS).other is not None for _ in range(5))


def test_half_of_the_batches_are_mixed():
    view = View(replace(SHORT, cutmix=0.5), torch.Generator().manual_seed(0), CLASSES, None, True)
    assert 60 < sum(view(IMAGES, TARGETS).other is not None for _ in range(200)) < 140


def test_cutout_leaves_where_images_are_mixed():
    both = SiameseAugmentation("crop_cutout", crop=0.2)
    view = View(replace(recipe_of("idc"), cutmix=0.5), torch.Generator(), CLASSES, both, True)
    assert (view.augment.strategy, view.augment.crop) == ("crop", 0.2)
    assert View(recipe_of("dsa"), torch.Generator(), CLASSES, both, True).augment.strategy == "crop_cutout"
    assert without(SiameseAugmentation("cutout"), "cutout").strategy == "cutout"


def test_no_mirror_images_of_digits():
    view = View(recipe_of("dsa"), torch.Generator(), CLASSES, None, False)
    assert view.augment.strategy == "color_crop_cutout_scale_rotate"
    crops = View(recipe_of("rded"), torch.Generator().manual_seed(0), CLASSES, None, False)
    assert torch.equal(crops._crops(IMAGES), IMAGES)
    assert not torch.equal(View(recipe_of("rded"), torch.Generator(), CLASSES, None, True)._crops(IMAGES), IMAGES)


def test_the_learned_learning_rate():
    recipe = replace(recipe_of("mtt"), epochs=2)
    plain = weights(trained(recipe))
    assert torch.equal(weights(trained(recipe, lr=recipe.lr)), plain)
    assert not torch.equal(weights(trained(recipe, lr=0.1)), plain)
    assert torch.equal(weights(trained(replace(recipe, learned_lr=False), lr=0.1)), plain)
    for lr in (-0.01, float("nan"), 0.0):
        with pytest.raises(InputError, match=r"step_size: .* was learned with the images"):
            trained(recipe, lr=lr)


def test_steps_that_were_learned_are_replayed():
    sizes = [0.3, 0.2, 0.1, 0.05, 0.01]
    order = torch.arange(12).view(CLASSES, 4)  # of images that lie class by class
    network = small()
    for step, size in enumerate(sizes):
        rows = order[:, 2 * (step % 2) : 2 * (step % 2) + 2].T.flatten()
        loss = nn.functional.cross_entropy(network(IMAGES[rows]), TARGETS[rows])
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        with torch.no_grad():
            for p, gradient in zip(network.parameters(), gradients, strict=True):
                p -= size * gradient
    replayed = trained(replace(recipe_of("dd"), batch_size=6), lr=sizes)
    torch.testing.assert_close(weights(replayed), weights(network))
    assert recipe_of("dd").images_a_step(4, CLASSES) == CLASSES
    with pytest.raises(InputError, match="recipe: it replays step sizes that were learned one a step"):
        trained(recipe_of("dd"), lr=0.1)


def test_the_average_of_weights_that_do_not_move_is_these():
    still = Recipe(epochs=5, lr=1e-30, schedule="constant", average=0.9)
    torch.testing.assert_close(weights(trained(still)), weights(small()))


def test_a_loss_that_is_no_number():
    with pytest.raises(InputError, match=r"recipe: its loss became .*; lower lr"):
        trained(replace(SHORT, lr=1e20, epochs=20))


def factors(**arguments):
    recipe = Recipe(lr=1.0, **arguments)
    return [recipe.factor(step, 2) for step in range(0, 2 * recipe.passes, 2)]


def test_schedules():
    assert factors(epochs=4, schedule="drop") == [1, 1, 1, 1, 0.1]
    assert factors(epochs=6, schedule="steps") == pytest.approx([1, 1, 1, 1, 0.2, 0.04])
    assert factors(epochs=3, schedule="constant") == [1, 1, 1]
    assert factors(epochs=4, schedule="cosine") == pytest.approx([1, 0.853553, 0.5, 0.146447], abs=1e-6)
    assert factors(epochs=2, schedule="half_cosine") == pytest.approx([1, 0.853553], abs=1e-6)
    warm = Recipe(epochs=1500, lr=1.0, schedule="warm_cosine")
    assert [warm.factor(step, 1) for step in (0, 250, 500, 1000, 1500)] == pytest.approx([0, 0.5, 1, 0.505, 0.01])


def test_batch_sizes():
    rded = recipe_of("rded")
    assert [rded.images_a_step(ipc, 10) for ipc in (1, 3, 10, 50)] == [10, 30, 50, 100]
    assert [rded.images_a_step(ipc, 100) for ipc in (1, 10, 50)] == [20, 100, 200]
    assert recipe_of("dc").images_a_step(50, 10) == 256


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"lr": float("nan")}, "lr must be finite and above 0, not nan"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"cutmix": 1.1}, r"cutmix must be in \[0, 1\], not 1.1"),
        ({"smallest_crop": 0}, r"smallest_crop must be in \(0, 1\], not 0"),
        ({"temperature": 0}, "temperature must be above 0, not 0"),
        ({"average": 1.0}, r"average must be in \[0, 1\), not 1.0"),
        ({"schedule": "step"}, "schedule: 'step' given; accepted are constant, drop"),
        ({"optimizer": "lamb"}, "optimizer: 'lamb' given; accepted are sgd, adam, adamw"),
    ],
)
def test_recipes_that_cannot_be(arguments, message):
    with pytest.raises(InputError, match=message):
        Recipe(**({"epochs": 1, "lr": 0.1} | arguments))


def test_unknown_recipe():
    with pytest.raises(
        InputError, match="recipe: 'best' given; accepted are dc, dd, dsa, fkd, frepo, idc, mtt, rded, sre2l"
    ):
        recipe_of("best")
