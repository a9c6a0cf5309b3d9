import pytest
import torch
from timm.models import resnet10t
from torchvision.models import resnet18

from lit_distill.errors import InputError
from lit_distill.models import ConvNet, detector, resnet8, segmenter
from lit_distill.models.pyramids import pyramid


@pytest.mark.parametrize(
    ("build", "strides"),
    [
        (lambda: ConvNet(width=4, depth=4), (2, 8)),
        (lambda: resnet10t(channels=(4, 8, 8, 8)), (4, 16)),
        (resnet8, (1, 2, 4)),
        (resnet18, (8, 32)),
    ],
    ids=["ConvNet", "timm", "ours", "torchvision"],
)
def test_levels_have_the_strides_that_were_asked_for(build, strides):
    names = [f"level{stride}" for stride in strides]
    with torch.no_grad():
        levels = pyramid(build(), 8, strides, names)(torch.zeros(2, 3, 64, 64))
    assert {name: tuple(x.shape) for name, x in levels.items()} == {
        name: (2, 8, 64 // stride, 64 // stride) for name, stride in zip(names, strides, strict=True)
    }


def test_what_is_refused():
    with pytest.raises(InputError, match=r"strides: ConvNet has no stage of stride 16; it has \[2, 4, 8\]"):
        segmenter(ConvNet(depth=3), 5)
    with pytest.raises(InputError, match="backbone: nothing is known about the stages of Linear"):
        segmenter(torch.nn.Linear(2, 2), 5)
    with pytest.raises(InputError, match="channels: 48 is no multiple of 32"):
        detector(ConvNet(depth=4), 5, image_size=64, channels=48)
