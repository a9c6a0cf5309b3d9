"""VkD: an orthogonal projection of the student's feature predicts the teacher's normalised one."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.core.projectors import OrthogonalProjector
from lit_distill.errors import InputError
from lit_distill.losses.base import FeatureLoss
from lit_distill.losses.checks import check_same_shape
from lit_distill.losses.feature.vectors import vectors
from lit_distill.losses.precision import fp32


@fp32
def vkd(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Smooth L1 distance to the teacher's feature, standardised sample by sample.

    The formula stands in :class:`VkD`.

    Args:
        student: Feature of the student behind the projection, ``(B, D)``.
        teacher: Feature of the teacher as it is, ``(B, D)``.

    Returns:
        A scalar, the mean over all entries.

    Raises:
        InputError: If the shapes differ.

    Example:
        >>> x = torch.randn(4, 8)
        >>> vkd(torch.nn.functional.layer_norm(x, (8,)), 3 * x + 5) < 1e-6
        tensor(True)
    """
    check_same_shape(student, teacher, "features")
    return F.smooth_l1_loss(student, F.layer_norm(teacher, teacher.shape[-1:]))


class VkD(FeatureLoss):
    r"""The student's pooled feature, only rotated and embedded, predicts the teacher's standardised one.

    Paper: Miles, Elezi, Deng, VkD: Improving Knowledge Distillation using Orthogonal Projections, CVPR 2024,
        https://arxiv.org/abs/2403.06213

    .. math:: \sum_{(s, t)} \mathrm{mean} \Big( \mathrm{smooth}_{L1} \big( W h^s - \mathrm{LN}(h^t) \big) \Big),
        \qquad W^\top W = I

    with features h averaged over positions and a layer normalisation LN without weights. An orthogonal projection
    preserves all angles and distances, so that it can learn nothing of the task in the student's place. It is trained
    with the student and dropped after. The authors take weight 1 for transformers taught by a convolutional network,
    beside cross entropy with weight 1 and, on the distillation token, ``KD`` with temperature 1 and weight 1:
    ``OnLayers(KD(temperature=1.0), layers={"head_dist": ""})``.

    Args:
        layers: Student module path to teacher module path. Default: the last stage of each network.

    Shape:
        Maps ``(B, D, H, W)``, tokens ``(B, N, D)``, of which those that do not belong to a square map (class and
        distillation token) are left out, or vectors ``(B, D)``. Output a scalar, summed over the pairs.

    Raises:
        InputError: If an activation is none of these, or if the loss is called before :meth:`build`.

    Traps:
        - The teacher alone is normalised; whatever normalises the student stands in its network: name a transformer's
          last ``norm`` as the authors do, the default is the block before.
        - A student wider than the teacher gets orthonormal rows: the projection forgets what is left over.
        - torch's parametrisation with weight decay, as released, turns the projection to zeros: it rounds signs that
          decay shrinks. Here decay pulls the projection to the one that it began with.
        - In half precision the projection would be orthogonal to two digits: it runs in float32 under autocast too.
        - For image generation the paper whitens the teacher instead; the authors released no code for that, and it is
          not here.

    Code: ``roymiles/VkD:engine.py`` and ``train.py``, equal to this.

    Example:
        >>> student = Outputs(torch.zeros(2, 10), {"blocks.11": torch.randn(2, 17, 3)})
        >>> teacher = Outputs(torch.zeros(2, 10), {"stage4": torch.randn(2, 5, 7, 7)})
        >>> loss = VkD(layers={"blocks.11": "stage4"})
        >>> loss.build(student, teacher)
        >>> loss(student, teacher, torch.tensor([0, 3])).shape
        torch.Size([])
    """

    default_view = "last"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.projectors = nn.ModuleList()

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Create one projection for each pair of layers, on the device of the student's features.

        Args:
            student: What the student said about the example batch.
            teacher: What the teacher said about it.
        """
        projectors = [OrthogonalProjector() for _ in self.layers]
        for projector, (s, t) in zip(projectors, self.pairs(student, teacher), strict=True):
            projector.build(vectors(s), vectors(t))
        self.projectors = nn.ModuleList(projectors)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Distances of the projected features, summed over the pairs."""
        if len(self.projectors) != len(self.layers):
            raise InputError("VkD must be built with the outputs of a dry run before it is called, got no build()")
        pairs = self.pairs(student, teacher)
        terms = [vkd(fp32(net)(vectors(s)), vectors(t)) for net, (s, t) in zip(self.projectors, pairs, strict=True)]
        return torch.stack(terms).sum()
