"""What is done to strong views, one operation after the other."""

import math

import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import rotate

from lit_distill.data.counter_rng import Draw
from lit_distill.data.strong import random_affine, random_cutout, random_light, strongly_augmented

MIDDLE = {"turn": 0.5, "zoom": 0.5, "shear_x": 0.5, "shear_y": 0.5, "shift_x": 0.5, "shift_y": 0.5}


@pytest.fixture
def images():
    return 255 * torch.rand(4, 3, 12, 20, generator=torch.Generator().manual_seed(0))


def affine(x, **numbers):
    turn, zoom, *rest = (torch.full((len(x),), value) for value in {**MIDDLE, **numbers}.values())
    return random_affine(x, turn, zoom, tuple(rest[:2]), tuple(rest[2:]))


def source(height=20, width=30, **numbers):
    """Where the pixels in the middle come from: matrix and shift, read off images that are maps of columns and rows."""
    rows, columns = torch.arange(height).float()[:, None], torch.arange(width).float()
    ramps = torch.stack([columns.expand(height, width), rows.expand(height, width)])[None]
    mapped = affine(ramps, **numbers)[0].double()
    top, left = height // 2, width // 2
    here = mapped[:, top, left]
    matrix = torch.stack([mapped[:, top, left + 1] - here, mapped[:, top + 1, left] - here], 1)
    centre = mapped[:, top - 1 : top + 1, left - 1 : left + 1].mean((1, 2))
    return matrix, centre - torch.tensor([(width - 1) / 2, (height - 1) / 2])


def close(value, expected):
    torch.testing.assert_close(value, torch.as_tensor(expected, dtype=torch.double), atol=1e-4, rtol=0)


def test_nothing_moves_in_the_middle_of_the_ranges(images):
    torch.testing.assert_close(affine(images), images, atol=1e-3, rtol=0)


@pytest.mark.parametrize(("number", "degrees"), [(0.0, -10.0), (1.0, 10.0), (0.75, None)])
def test_turns_are_those_of_torchvision(images, number, degrees):
    if degrees is None:  # half the tangent of half the angle
        degrees = math.degrees(2 * math.atan(math.tan(math.radians(5)) / 2))
    expected = rotate(images, degrees, InterpolationMode.BILINEAR)
    torch.testing.assert_close(affine(images, turn=number), expected, atol=1e-2, rtol=0)


@pytest.mark.parametrize(("number", "sign"), [(0.0, -1), (1.0, 1)])
def test_each_number_does_one_thing_and_goes_so_far(number, sign):
    matrix, shift = source(zoom=number)
    close(matrix, torch.eye(2) * (1 + 0.1 * sign))
    close(shift, [0, 0])
    for name, moved in (("shear_x", [[1, 0.1 * sign], [0, 1]]), ("shear_y", [[1, 0], [0.1 * sign, 1]])):
        matrix, shift = source(**{name: number})
        close(matrix, moved)
        close(shift, [0, 0])
    for name, moved in (("shift_x", [0.15 * 30 * sign, 0]), ("shift_y", [0, 0.15 * 20 * sign])):
        matrix, shift = source(**{name: number})
        close(matrix, torch.eye(2))
        close(shift, moved)
    matrix, shift = source(turn=number)
    close(matrix @ matrix.T, torch.eye(2))
    close(matrix[1, 0].asin(), math.radians(10) * sign)
    close(shift, [0, 0])


def test_what_comes_from_outside_is_black():
    shifted = affine(torch.full((1, 1, 20, 20), 9.0), shift_x=0.0)
    torch.testing.assert_close(shifted[0, 0, :, :3], torch.zeros(20, 3))
    torch.testing.assert_close(shifted[0, 0, :, 3:], torch.full((20, 17), 9.0))


def test_light_multiplies_pixels_and_their_distance_from_the_mean(images):
    mean, middle = torch.tensor([100.0, 50.0, 80.0])[:, None, None], torch.full((4,), 0.5)
    torch.testing.assert_close(random_light(images, mean, middle, middle), images)
    for number, factor in ((0.0, 0.7), (1.0, 1.3)):
        end = torch.full((4,), number)
        torch.testing.assert_close(random_light(images, mean, end, middle), (factor * images).clamp(0, 255))
        spread = (mean + factor * (images - mean)).clamp(0, 255)
        torch.testing.assert_close(random_light(images, mean, middle, end), spread)


def test_a_hole_is_a_rectangle_of_up_to_half_the_sides():
    u = torch.rand(3, 500, generator=torch.Generator().manual_seed(0))
    cut = random_cutout(torch.ones(500, 2, 16, 24), torch.tensor([0.0, 3.0])[:, None, None], *u)
    hole = cut[:, 0] == 0
    assert torch.equal(cut[:, 1] == 3, hole)
    assert torch.equal((cut == 1).all(1), ~hole)
    rows, columns = hole.any(2), hole.any(1)
    assert torch.equal(hole, rows[:, :, None] & columns[:, None])
    for side, where, size in ((rows, u[0], 16), (columns, u[1], 24)):
        assert (side.long().diff().abs().sum(1) <= 2).all()  # one run
        assert side.sum(1).max() == size / 2
        assert (side.sum(1) <= u[2] * size / 2 + 1).all()
        inside = (where - u[2] / 4 > 0) & (where + u[2] / 4 < 1)
        middle = (side * (torch.arange(size) + 0.5)).sum(1) / side.sum(1)
        seen = inside & side.any(1)
        assert ((middle - where * size).abs()[seen] <= 0.5 + 1e-4).all()
    assert hole[:, 0, 0].any()
    assert hole[:, -1, -1].any()


@pytest.mark.parametrize("flip", [True, False])
def test_images_are_mirrored_where_the_set_allows_it(images, flip):
    def draw(purpose):
        if purpose == Draw.STRONG_FLIP:
            return torch.tensor([0.0, 0.49, 0.5, 0.9])
        return torch.full((4,), 0.0 if purpose == Draw.CUT_SIDE else 0.5)

    x = strongly_augmented(images.to(torch.uint8), torch.zeros(3, 1, 1), flip, draw)
    expected = images.to(torch.uint8).float()
    if flip:
        expected[:2] = expected[:2].flip(-1)
    torch.testing.assert_close(x, expected, atol=1e-3, rtol=0)


def test_every_purpose_has_a_number_of_its_own(images):
    drawn = []
    strongly_augmented(
        images, torch.zeros(3, 1, 1), True, lambda purpose: drawn.append(purpose) or torch.full((4,), 0.3)
    )
    assert len(drawn) == len(set(drawn)) == 12
