"""Inter-channel correlation: the student's channels resemble each other as the teacher's do."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from lit_distill.core.outputs import Outputs
from lit_distill.core.projectors import BatchNormProjector
from lit_distill.errors import InputError
from lit_distill.losses.base import FeatureLoss
from lit_distill.losses.checks import require
from lit_distill.losses.directions import unit
from lit_distill.losses.precision import fp32
from lit_distill.losses.products import products
from lit_distill.losses.views import as_map


@fp32
def ickd(student: Tensor, teacher: Tensor, scale: Literal["cifar", "imagenet"] = "cifar") -> Tensor:
    r"""Difference of the products between the channels of two maps; the formula stands in :class:`ICKD`.

    Args:
        student: Map of the student, ``(B, C, H_s, W_s)``.
        teacher: Map of the teacher, ``(B, C, H_t, W_t)``.
        scale: Of the authors' code for which data set: what the sum is divided by.

    Returns:
        A scalar.

    Raises:
        InputError: If they are not maps of the same samples with the same number of channels.

    Example:
        >>> x = torch.rand(2, 3, 4, 4)
        >>> ickd(2 * x, x) < 1e-10
        tensor(True)
    """
    require(
        student.dim() == teacher.dim() == 4 and student.shape[:2] == teacher.shape[:2],
        "student and teacher maps",
        f"{tuple(student.shape)} and {tuple(teacher.shape)}",
        "maps (B, C, H, W) of the same samples and channels",
    )
    batch, channels = student.shape[:2]
    summed = (correlations(student) - correlations(teacher)).square().sum() / (channels * batch)
    return summed if scale == "cifar" else summed / batch


def correlations(x: Tensor) -> Tensor:
    r"""Products of each channel with all others, one unit vector a channel.

    .. math:: G_i = \frac{g_i}{\| g_i \|}, \qquad g_{ij} = \sum_{hw} f_{ihw} f_{jhw}

    Args:
        x: A map ``(B, C, H, W)``.

    Returns:
        ``(B, C, C)``; zero in the row of a channel that is zero everywhere.

    Example:
        >>> correlations(torch.eye(2).view(1, 2, 1, 2))
        tensor([[[1., 0.],
                 [0., 1.]]])
    """
    return unit(products(x.flatten(2)), dim=2)


class ICKD(FeatureLoss):
    r"""The student's channels resemble each other as the teacher's do.

    Paper: Liu et al., Exploring Inter-Channel Correlation for Diversity-preserved Knowledge Distillation, ICCV 2021,
        https://arxiv.org/abs/2202.03680

    .. math:: \sum_{(s, t)} \frac{1}{B C} \sum_b \big\| G(E f^s_b) - G(f^t_b) \big\|_F^2, \qquad
        G_i = \frac{g_i}{\| g_i \|}, \quad g_{ij} = \sum_{hw} f_{ihw} f_{jhw}

    with an embedding E of the student's map, a 1x1 convolution and a BatchNorm, to the teacher's number of channels C.
    It is trained with the student and dropped after; the teacher's map is taken as it is. On CIFAR-100 the authors have
    weight 2.5. Their code for ImageNet divides by B once more (``scale: imagenet``), and has weight 500.

    Args:
        scale: What the sum is divided by: B C (``cifar``), or B² C (``imagenet``). Each published weight belongs to one
            of the two.
        layers: Student module path to teacher module path. Default: the last stage of each network.

    Shape:
        Maps ``(B, D, H, W)`` of any size in each network, tokens ``(B, N, D)`` without their prefix, or vectors
        ``(B, D)``; output a scalar, summed over the pairs.

    Raises:
        InputError: If ``scale`` is none of the two, or the loss is called before :meth:`build`.

    Traps:
        - The weights 2.5 and 500 are not interchangeable: at a batch of 256 the second is 1.95 in the units of the
          first.
        - With ``scale: imagenet`` the value falls with the number of samples on a device.
        - It takes memory for B C² numbers.
        - BatchNorm needs batches: one sample with a map of one position raises in training.

    Code: ``ADLab-AutoDrive/ICKD:Cifar100/distiller_zoo/ICKD.py`` and
        ``ImageNet/torchdistill/losses/single.py`` (ChSimLoss), equal to the two scales.

    Example:
        >>> student = Outputs(torch.zeros(2, 10), {"layer4": torch.randn(2, 3, 8, 8)})
        >>> teacher = Outputs(torch.zeros(2, 10), {"layer4": torch.randn(2, 5, 4, 4)})
        >>> loss = ICKD(layers={"layer4": "layer4"}, weight=2.5)
        >>> loss.build(student, teacher)
        >>> loss(student, teacher, torch.tensor([0, 3])).shape
        torch.Size([])
    """

    default_view = "last"

    def __init__(self, scale: Literal["cifar", "imagenet"] = "cifar", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require(scale in ("cifar", "imagenet"), "scale", repr(scale), "cifar or imagenet")
        self.scale: Literal["cifar", "imagenet"] = scale
        self.embeddings = nn.ModuleList()

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Create one embedding for each pair of layers, on the device of the student's maps.

        Args:
            student: What the student said about the example batch.
            teacher: What the teacher said about it.
        """
        embeddings = []
        for s, t in self.pairs(student, teacher):
            embedding = BatchNormProjector()
            embedding.build(as_map(s), as_map(t))
            embeddings.append(embedding)
        self.embeddings = nn.ModuleList(embeddings)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Difference of the products between channels, summed over the pairs."""
        if len(self.embeddings) != len(self.layers):
            raise InputError("ICKD must be built with the outputs of a dry run before it is called, got no build()")
        pairs = zip(self.embeddings, self.pairs(student, teacher), strict=True)
        return torch.stack([ickd(embedding(as_map(s)), as_map(t), self.scale) for embedding, (s, t) in pairs]).sum()
