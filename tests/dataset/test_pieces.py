import pytest
import torch
from torch import nn

from lit_distill.dataset import DistributionMatching
from lit_distill.dataset.embedding import embed
from lit_distill.dataset.objectives.distribution import mean_distance
from lit_distill.dataset.pieces import pieces
from lit_distill.models import CondensationConvNet

from .steps import pixels, step


@pytest.mark.parametrize(("width", "size"), [(8, 64), (32, 32), (128, 8), (512, 8)])
def test_parts_make_the_whole(width, size):
    x = torch.randn(2 * size + 1, 3)
    parts = pieces(x, nn.Sequential(nn.Conv2d(3, width, 1), nn.BatchNorm2d(width).eval()))
    assert [len(part) for part in parts] == [size, size, 1]
    assert torch.equal(torch.cat(parts), x)


def test_batch_norm_sees_the_whole_batch():
    x = torch.randn(200, 3)
    assert [len(part) for part in pieces(x, nn.Sequential(nn.BatchNorm1d(3)))] == [200]


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_distributions_do_not_depend_on_the_parts(norm):
    net = CondensationConvNet((1, 8, 8), num_classes=3, width=16, depth=2, norm=norm).requires_grad_(False)
    synthetic = pixels()
    made = step(synthetic, per_class=40)
    real, few = (images.flatten(0, 1) for images in (made.real.images, synthetic.whole().images))
    whole = mean_distance(embed(net, few).unflatten(0, (3, -1)), embed(net, real).unflatten(0, (3, -1)))
    torch.testing.assert_close(DistributionMatching()(made, net), whole)
