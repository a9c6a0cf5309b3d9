"""The digits of scikit-learn, which come with the package."""

from typing import Any, Literal

import torch
from sklearn.datasets import load_digits

from lit_distill.data.splits import stratified_order
from lit_distill.data.tensor_data import TensorData, TensorImages


class Digits(TensorData):
    """1797 handwritten digits of 8×8 pixels, a part of scikit-learn: nothing to download.

    The test set is a fixed fifth of them, with the class proportions of all; the set has no official one.

    Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.

    Args:
        augment: Whether to shift training images by up to one pixel.
    """

    num_classes = 10
    input_shape = (1, 8, 8)
    mean = (0.3053,)
    std = (0.3758,)
    padding = 1
    flip = False

    def __init__(self, augment: bool = False, **kwargs: Any) -> None:
        super().__init__(augment=augment, **kwargs)

    def read(self, part: Literal["train", "test"]) -> TensorImages:
        """The full training set or the test set."""
        digits = load_digits()
        # the file counts dark pixels in 4×4 blocks, from 0 to 16
        x = torch.from_numpy(digits.images).mul(255 / 16).round().to(torch.uint8)[:, None]
        targets = torch.from_numpy(digits.target).long()
        order = stratified_order(targets, seed=0)
        test = round(len(order) / 5)
        chosen = (order[:test] if part == "test" else order[test:]).sort().values
        return TensorImages(x[chosen], targets[chosen])
