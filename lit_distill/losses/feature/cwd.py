"""Channel-wise distillation: where in the image each channel responds."""

from typing import Any

import torch
from torch import Tensor

from lit_distill.core.outputs import Outputs
from lit_distill.losses.base import FeatureLoss
from lit_distill.losses.checks import check_same_shape, check_temperature
from lit_distill.losses.divergences.kl import forward_kl
from lit_distill.losses.divergences.rows import reduce_rows
from lit_distill.losses.feature.bridges import Bridges
from lit_distill.losses.feature.maps import aligned


def cwd(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    r"""Forward KL between the distributions over positions of each channel, times the square of the temperature.

    The formula stands in :class:`CWD`.

    Args:
        student: Map of the student, ``(B, C, H, W)``.
        teacher: Map of the teacher, ``(B, C, H, W)``.
        temperature: Divides both maps.

    Returns:
        A scalar.

    Raises:
        InputError: If the shapes of the maps differ, or the temperature is not positive.

    Example:
        >>> x = torch.randn(2, 3, 4, 4)
        >>> cwd(x + 5, x).abs() < 1e-5
        tensor(True)
    """
    check_same_shape(student, teacher, "maps")
    return temperature**2 * reduce_rows(forward_kl(student.flatten(2), teacher.flatten(2), temperature=temperature))


class CWD(FeatureLoss):
    r"""Each channel of the student responds at the places of the image where the teacher's does.

    Paper: Shu, Liu, Gao, Yan, Shen, Channel-wise Knowledge Distillation for Dense Prediction, ICCV 2021,
        https://arxiv.org/abs/2011.13256

    .. math:: \sum_{(s, t)} \frac{T^2}{B C} \sum_{bc} \mathrm{KL} \big( \mathrm{softmax}_{hw}(f^t_{bc} / T) \,\|\,
        \mathrm{softmax}_{hw}(f^s_{bc} / T) \big)

    Every channel of an image is a distribution over positions, so that what counts is where a channel responds most,
    not how strongly. Where the numbers of channels differ, a 1x1 convolution on the student's map is trained with the
    student and dropped after. For segmentation the authors take T = 4 with weight 50 on the last map, or 3 on the
    logits of all positions; mmrazor has weight 10 for each level of a detector's pyramid.

    Args:
        temperature: Divides the maps of both networks before the softmax; a low one sees the strongest place alone.
        layers: Student module path to teacher module path. Default: the last stage of each network.

    Shape:
        Maps ``(B, D, H, W)``, or tokens ``(B, N, D)`` without their prefix, of any size on either side: the larger map
        is averaged to the size of the smaller one. Output a scalar, summed over the pairs.

    Raises:
        InputError: If the temperature is not positive, or the loss is called before :meth:`build`.

    Traps:
        - The softmax is over positions, not over channels.
        - The sum over positions is divided by B C, not by the number of positions too.
        - A map of one position has one distribution only: the term is 0, as for vectors.

    Code: ``irfanICMLL/TorchDistiller:SemSeg-distill/utils/criterion.py`` and
        ``open-mmlab/mmrazor:mmrazor/models/losses/cwd.py``, equal to this but for the logarithm of a softmax, which
        underflows in the first.

    Example:
        >>> student = Outputs(torch.zeros(2, 10), {"layer2": torch.randn(2, 3, 8, 8)})
        >>> teacher = Outputs(torch.zeros(2, 10), {"layer2": torch.randn(2, 5, 4, 4)})
        >>> loss = CWD(layers={"layer2": "layer2"}, weight=50.0)
        >>> loss.build(student, teacher)
        >>> loss(student, teacher, torch.tensor([0, 3])).shape
        torch.Size([])
    """

    default_view = "last"

    def __init__(self, temperature: float = 4.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_temperature(temperature)
        self.temperature = temperature
        self.bridges = Bridges()

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Create the convolutions where the numbers of channels differ, on the device of the student's maps.

        Args:
            student: What the student said about the example batch.
            teacher: What the teacher said about it.
        """
        self.bridges.build(self.pairs(student, teacher))

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Divergence of the channels' distributions, summed over the pairs."""
        pairs = [aligned(s, t) for s, t in self.bridges(self.pairs(student, teacher))]
        return torch.stack([cwd(s, t, self.temperature) for s, t in pairs]).sum()
