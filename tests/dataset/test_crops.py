import torch

from lit_distill.dataset.crops import Box, cropped, random_box


def boxes(count=2000, size=(28, 28), **kwargs):
    generator = torch.Generator().manual_seed(0)
    return torch.tensor([random_box(size, generator, **kwargs) for _ in range(count)])


def test_boxes_lie_inside():
    top, left, height, width = boxes(size=(20, 30)).T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height).max() == 20
    assert (left + width).max() == 30


def test_share_of_the_area_is_uniform():
    _, _, height, width = boxes(size=(200, 200), smallest=0.25, ratio=(1.0, 1.0)).T
    share = (height * width / 200**2).sort().values
    torch.testing.assert_close(share, torch.linspace(0.25, 1, len(share)), rtol=0, atol=0.03)


def test_ratio_is_as_often_above_as_below():
    _, _, height, width = boxes(size=(200, 200), smallest=0.1).T
    ratio = width / height
    assert ratio.min() > 0.73
    assert ratio.max() < 1.37
    assert abs((ratio > 1).float().mean() - 0.5) < 0.05


def test_whole_images_where_no_crop_is_small_enough():
    assert (boxes(50, smallest=1.0) == torch.tensor([0, 0, 28, 28])).all()


def test_a_long_image_is_cut_in_the_middle():
    box = random_box((10, 100), torch.Generator().manual_seed(0), smallest=1.0)
    assert box == Box(0, 43, 10, 13)


def test_crop_without_scaling():
    images = torch.randn(2, 3, 8, 8, requires_grad=True)
    assert torch.equal(cropped(images, Box(1, 2, 4, 3), (4, 3)), images[..., 1:5, 2:5])


def test_crop_is_stretched():
    images = torch.randn(1, 1, 4, 4)
    assert cropped(images, Box(0, 0, 2, 2), (4, 4)).shape == (1, 1, 4, 4)
    constant = cropped(torch.ones(1, 1, 4, 4), Box(1, 1, 2, 3), (5, 7))
    torch.testing.assert_close(constant, torch.ones(1, 1, 5, 7))
