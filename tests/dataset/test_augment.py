import pytest
import torch

from lit_distill.data.forked_rng import forked_rng
from lit_distill.dataset.augment import OPERATIONS, Drawn, SiameseAugmentation
from lit_distill.errors import InputError

STRATEGIES = [*OPERATIONS, "color_crop_cutout_flip_scale_rotate"]


def generators(count, seed=0):
    return [torch.Generator().manual_seed(seed + c) for c in range(count)]


def images(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(9), dtype=dtype)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("channels", [1, 3])
def test_groups_are_augmented_as_if_each_was_alone(strategy, channels):
    augment = SiameseAugmentation(strategy)
    drawn = augment.draw(generators(6))
    x = images(6, 3, channels, 10, 7)
    whole = augment(x, drawn)
    assert whole.shape == x.shape
    for k in range(6):
        for i in range(3):
            alone = Drawn(drawn.operation[k : k + 1], drawn.numbers[k : k + 1])
            torch.testing.assert_close(augment(x[k : k + 1, i : i + 1], alone)[0, 0], whole[k, i])


def test_real_and_synthetic_images_are_augmented_alike():
    augment = SiameseAugmentation()
    drawn = augment.draw(generators(8))
    x = images(8, 1, 3, 8, 8)
    many = augment(x.expand(-1, 5, -1, -1, -1), drawn)
    torch.testing.assert_close(many, augment(x, drawn).expand_as(many))


def test_all_operations_are_drawn_and_do_something():
    augment = SiameseAugmentation()
    drawn = augment.draw(generators(200))
    assert drawn.operation.unique().tolist() == list(range(6))
    assert 0 <= drawn.numbers.min() < 0.05
    assert 0.95 < drawn.numbers.max() < 1
    x = images(200, 1, 3, 8, 8)
    changed = (augment(x, drawn) != x).flatten(1).any(1)
    for operation in range(6):
        share = changed[drawn.operation == operation].float().mean()
        assert 0.2 < share < 0.8 if operation == 3 else share > 0.8


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_gradients(strategy):
    augment = SiameseAugmentation(strategy)
    drawn = augment.draw(generators(4, seed=5))
    x = images(4, 2, 2, 5, 5, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: augment(x, drawn), x)


def test_numbers_depend_on_their_generator_alone():
    augment = SiameseAugmentation()
    many, one = augment.draw(generators(4)), augment.draw(generators(4)[2:3])
    assert torch.equal(many.operation[2:3], one.operation)
    assert torch.equal(many.numbers[2:3], one.numbers)


def test_the_global_generator_is_left_alone():
    augment = SiameseAugmentation()
    results = []
    for seed in (0, 1):
        with forked_rng(seed):
            state = torch.get_rng_state()
            x = images(4, 1, 8, 8)
            results.append(augment.each(x, torch.Generator().manual_seed(3)))
            assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(*results)


def test_each_image_in_its_own_way():
    augment = SiameseAugmentation("crop")
    x = images(1, 1, 16, 16).expand(20, -1, -1, -1)
    different = augment.each(x, torch.Generator().manual_seed(0)).unique(dim=0)
    assert 10 < len(different) <= 20


def test_grey_images_have_no_saturation():
    augment, other = SiameseAugmentation("color"), SiameseAugmentation("color", saturation=100.0)
    drawn = augment.draw(generators(3))
    x = images(3, 2, 1, 6, 6)
    assert torch.equal(augment(x, drawn), other(x, drawn))


def test_operations_within_their_ranges():
    x = torch.ones(300, 1, 1, 16, 16)
    shift = SiameseAugmentation("crop")(x, SiameseAugmentation("crop").draw(generators(300)))
    rows = shift.amax((1, 2, 4)).sum(1)
    assert rows.min() == 14
    assert rows.max() == 16
    cut = SiameseAugmentation("cutout")(x, SiameseAugmentation("cutout").draw(generators(300)))
    area = (cut == 0).sum((1, 2, 3, 4))
    assert area.max() == 64
    assert area.min() >= 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strategy": "color_crap"}, "strategy: 'crap' is no operation; accepted are color, crop"),
        ({"strategy": ""}, "strategy: '' is no operation"),
        ({"scale": 0.5}, "scale must be at least 1, not 0.5"),
        ({"flip": 1.5}, r"flip must be in \[0, 1\], not 1.5"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        SiameseAugmentation(**arguments)


@pytest.mark.parametrize("shape", [(3, 1, 1, 8, 8), (2, 1, 8, 8)])
def test_bad_groups(shape):
    augment = SiameseAugmentation()
    with pytest.raises(InputError, match=r"images must be \(2, n, C, H, W\)"):
        augment(torch.zeros(shape), augment.draw(generators(2)))
