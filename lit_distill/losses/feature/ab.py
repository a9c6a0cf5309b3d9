"""Activation boundaries: the student's neurons are active where the teacher's are."""

from typing import Any

from torch import Tensor, nn

from lit_distill.core.outputs import Outputs
from lit_distill.core.projectors import BatchNormProjector
from lit_distill.errors import InputError
from lit_distill.losses.base import FeatureLoss
from lit_distill.losses.checks import check_same_shape, require
from lit_distill.losses.known_gradient import Gradient, with_gradient
from lit_distill.losses.precision import fp32
from lit_distill.losses.views import as_map, same_size

# The authors', which brings a sum over a map to the size of a cross entropy.
SCALE = 3e-3


@fp32
def ab(student: Tensor, teacher: Tensor, margin: float = 1.0) -> Tensor:
    r"""Squared hinge on which side of zero a map before its ReLU is.

    .. math:: \frac{1}{B} \sum \begin{cases} \max(0, m - f^s)^2 & f^t > 0 \\ \max(0, m + f^s)^2 & \text{else}
        \end{cases}

    Args:
        student: Map of the student after the connector, ``(B, C, H, W)``.
        teacher: Map of the teacher, ``(B, C, H, W)``, of which the sign alone counts.
        margin: How far beyond zero the student must be.

    Returns:
        A scalar, the sum over all entries of a sample, averaged over samples.

    Raises:
        InputError: If the shapes of the maps differ.

    Example:
        >>> import torch
        >>> ab(torch.tensor([[2.0, 2.0]]), torch.tensor([[0.1, -0.1]]))
        tensor(9.)
    """
    check_same_shape(student, teacher, "maps")
    return with_gradient(_hinge, student, teacher, margin)


def _hinge(student: Tensor, teacher: Tensor, margin: float) -> tuple[Tensor, Gradient]:
    side = (teacher > 0).to(student.dtype).mul_(2).sub_(1)
    short = (student * side).sub_(margin).clamp_(max=0)
    return short.square().sum() / len(student), lambda: short.mul_(side).mul_(2 / len(student))


class AB(FeatureLoss):
    r"""Neurons of the student are active where the teacher's are, whatever their size.

    Paper: Heo et al., Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons, AAAI 2019,
        https://arxiv.org/abs/1811.03233

    .. math:: \frac{3}{1000} \sum_{i=1}^n \frac{1}{2^{n-i}} \frac{1}{B} \sum \max \big( 0, m - \mathrm{sign}(f_i^t) \,
        s_i \big)^2, \qquad s = \mathrm{BN}(\mathrm{conv}(f^s))

    where a teacher's zero counts as negative. A deeper pair of the n counts twice as much as the one before. The
    connectors are trained with the student and dropped after. In the paper this is how a student begins: a stage with
    this term alone, then one without it, on the teacher's answers (``lit-distill stages ab_stages_digits``). The
    benchmark of CRD on CIFAR-100 takes 30 epochs for the first and trains on labels alone in the second. Beside other
    terms it works too, as in the preset ``ab_digits``.

    Args:
        margin: How far beyond zero the student must be.
        layers: Student module path to teacher module path, each before its activation, from shallow to deep. Default:
            the inputs of the last activation of each stage, paired by their position.

    Shape:
        Maps ``(B, D, H, W)``, tokens ``(B, N, D)`` without their prefix, or vectors ``(B, D)``: the larger map is
        averaged to the size of the smaller one. Output a scalar, summed over the pairs.

    Raises:
        InputError: If the margin is negative, or the loss is called before :meth:`build`.

    Traps:
        - A map after its ReLU is never negative: with it nothing is asked where the teacher is not active but that the
          student be below the margin, too.
        - A sum over channels and positions, not a mean: larger maps need a smaller weight.
        - Alone it trains no classifier: the accuracy of the first stage is that of guessing.

    Code: ``bhheo/AB_distillation:cifar10_AB_distillation.py`` and ``HobbitLong/RepDistiller:distiller_zoo/AB.py``,
        whose value for the same two maps is this one. In the authors' first stage the teacher runs in train mode; here
        it stays in eval mode.

    Example:
        >>> import torch
        >>> student = Outputs(torch.zeros(2, 10), {"relu:input": torch.randn(2, 3, 8, 8)})
        >>> teacher = Outputs(torch.zeros(2, 10), {"relu:input": torch.randn(2, 5, 8, 8)})
        >>> loss = AB(layers={"relu:input": "relu:input"})
        >>> loss.build(student, teacher)
        >>> loss(student, teacher, torch.tensor([0, 3])).shape
        torch.Size([])
    """

    default_view = "pre_activation"

    def __init__(self, margin: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require(margin >= 0, "margin", margin, "0 or positive")
        self.margin = margin
        self.connectors = nn.ModuleList()

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Create one connector for each pair of layers, on the device of the student's maps.

        Args:
            student: What the student said about the example batch.
            teacher: What the teacher said about it.
        """
        connectors = [BatchNormProjector() for _ in self.layers]
        for connector, (s, t) in zip(connectors, self.pairs(student, teacher), strict=True):
            connector.build(as_map(s), as_map(t))
        self.connectors = nn.ModuleList(connectors)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Squared hinge of the connected maps, summed over the pairs."""
        if len(self.connectors) != len(self.layers):
            raise InputError("AB must be built with the outputs of a dry run before it is called, got no build()")
        total = student.logits.new_zeros(())
        for connector, (s, t) in zip(self.connectors, self.pairs(student, teacher), strict=True):
            s, t = same_size(as_map(s), as_map(t))
            total = total / 2 + ab(connector(s), t, self.margin)
        return SCALE * total
