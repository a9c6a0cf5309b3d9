"""SRD, a simple recipe for distillation: normalised features, and the logarithm of their distance."""

from typing import Any

import torch
from torch import Tensor, nn

from lit_distill.core.outputs import Outputs
from lit_distill.core.projectors import LinearProjector
from lit_distill.errors import InputError
from lit_distill.losses.base import FeatureLoss
from lit_distill.losses.checks import check_same_shape, require
from lit_distill.losses.feature.vectors import vectors
from lit_distill.losses.precision import fp32


@fp32
def srd(student: Tensor, teacher: Tensor, exponent: float = 4.0, eps: float = 1e-4) -> Tensor:
    r"""Logarithm of the summed powers of the gaps between two batch-normalised features.

    The formula stands in :class:`SRD`.

    Args:
        student: Feature of the student behind the projector, ``(B, D)``.
        teacher: Feature of the teacher as it is, ``(B, D)``.
        exponent: Power of each gap.
        eps: Added to the variances over the batch.

    Returns:
        A scalar; where all gaps vanish the logarithm of the smallest normal number, with gradient 0.

    Raises:
        InputError: If the shapes differ.

    Example:
        >>> srd(torch.tensor([[1.0], [-1.0]]), torch.tensor([[-3.0], [3.0]]))  # 2 gaps of 2: the logarithm of 2 * 2**4
        tensor(3.4656)
    """
    check_same_shape(student, teacher, "features")
    gaps = (_normalised(student, eps) - _normalised(teacher, eps)).abs()
    total = gaps.pow(exponent).sum()
    return total.clamp(min=torch.finfo(total.dtype).tiny).log()


def _normalised(x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(0)
    return centred * (centred.square().mean(0) + eps).rsqrt()


class SRD(FeatureLoss):
    r"""A linear map of the student's pooled feature meets the teacher's, both normalised over the batch.

    Paper: Miles, Mikolajczyk, Understanding the Role of the Projector in Knowledge Distillation, AAAI 2024,
        https://arxiv.org/abs/2303.11098

    .. math:: \log \sum_{bd} \big| \mathrm{BN}(W h^s + c)_{bd} - \mathrm{BN}(h^t)_{bd} \big|^n

    with features h averaged over positions and a batch normalisation BN without weights. The logarithm keeps the
    gradient from fading where many gaps are small, and the power of each gap looks at the large ones. The linear map is
    trained with the student and dropped after. The authors give this term weight 2, beside cross entropy with weight 1
    and ``KD`` with temperature 1 and weight 1.

    Args:
        exponent: Power n of each gap.
        eps: Added to the variances over the batch.
        layers: Student module path to teacher module path, one pair. Default: the last stage of each network.

    Shape:
        Maps ``(B, D, H, W)``, tokens ``(B, N, D)``, of which those that do not belong to a square map (class and
        distillation token) are left out, or vectors ``(B, D)``. Output a scalar.

    Raises:
        InputError: If ``exponent`` is below 1 or ``eps`` is not positive, ``layers`` is not one pair, an activation is
            none of the above, or the loss is called before :meth:`build`.

    Traps:
        - The sum is over samples and channels: their number shifts the value, not the gradient's size.
        - The value falls below 0 as the features come close, and the gradient grows as one over the gaps.
        - The teacher's feature is normalised by its batch too: the term compares samples of one batch, on each device.

    Code: ``roymiles/Simple-Recipe-Distillation:imagenet/torchdistill/losses/single.py`` (OurDistillationLoss), equal to
        twice this and the ``KD``.

    Example:
        >>> student = Outputs(torch.zeros(4, 10), {"layer4": torch.randn(4, 3, 7, 7)})
        >>> teacher = Outputs(torch.zeros(4, 10), {"layer4": torch.randn(4, 5, 7, 7)})
        >>> loss = SRD(layers={"layer4": "layer4"}, weight=2.0)
        >>> loss.build(student, teacher)
        >>> loss(student, teacher, torch.tensor([0, 3, 1, 1])).shape
        torch.Size([])
    """

    default_view = "last"

    def __init__(self, exponent: float = 4.0, eps: float = 1e-4, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require(exponent >= 1, "exponent", exponent, "at least 1")
        require(eps > 0, "eps", eps, "positive")
        require(len(self.layers) <= 1, "layers", self.layers, "one pair {student path: teacher path}")
        self.exponent = exponent
        self.eps = eps
        self.projector = LinearProjector()

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Create the linear map, on the device of the student's feature.

        Args:
            student: What the student said about the example batch.
            teacher: What the teacher said about it.
        """
        ((s, t),) = self.pairs(student, teacher)
        self.projector.build(vectors(s), vectors(t))

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Logarithm of the distance of the normalised features."""
        if isinstance(self.projector.net, nn.Identity):
            raise InputError("SRD must be built with the outputs of a dry run before it is called, got no build()")
        ((s, t),) = self.pairs(student, teacher)
        return srd(fp32(self.projector)(vectors(s)), vectors(t), self.exponent, self.eps)
