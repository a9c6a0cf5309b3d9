"""Dual-head knowledge distillation: the teacher's logits go to a head of their own."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses.auxiliary import AuxiliaryHead
from lit_distill.losses.base import LogitLoss
from lit_distill.losses.checks import check_same_shape, check_temperature, require
from lit_distill.losses.divergences.rows import reduce_rows
from lit_distill.losses.known_gradient import Gradient, with_gradient
from lit_distill.losses.precision import fp32


@fp32
def dhkd(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    r"""Divergence of a fair coin from one whose bias is the difference of logits, class by class (BinaryKL-Norm).

    .. math:: \frac{T^2}{B} \sum_{b, c} \mathrm{KL}\Big( \tfrac{1}{2} \,\Big\|\, \sigma\big( \tfrac{z^s_{bc} - z^t_{bc}}
        {T} \big) \Big) = \frac{T^2}{B} \sum_{b, c} \log \cosh \frac{z^s_{bc} - z^t_{bc}}{2 T}

    Args:
        student: Logits of the student's second head, ``(B, C)``.
        teacher: Logits of the teacher, ``(B, C)``.
        temperature: Divides the differences.

    Returns:
        A scalar; about one eighth of the squared error for small differences, half of the absolute one for large ones.

    Example:
        >>> dhkd(torch.tensor([[4.0, 1.0]]), torch.tensor([[0.0, 1.0]]))
        tensor(1.7351)
    """
    check_same_shape(student, teacher, "logits")
    check_temperature(temperature)
    return temperature**2 * reduce_rows(with_gradient(_log_cosh, student, teacher, temperature))


def _log_cosh(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Gradient]:
    half = (student - teacher) / (2 * temperature)
    # cosh itself overflows; from 40 on the softplus of x is x in float64 too
    values = F.softplus(2 * half, threshold=40) - half - math.log(2)
    return values.sum(-1), lambda: half.tanh_().div_(2 * temperature)


@torch.no_grad()
def aligned_gradients(cross_entropy: Sequence[Tensor], distillation: Sequence[Tensor]) -> list[Tensor]:
    r"""Sum of both gradients, from the second of which is taken what contradicts the first.

    .. math:: g = g_{CE} + g_{KD} - \min\Big( \frac{\langle g_{KD}, g_{CE} \rangle}{\| g_{CE} \|^2}, 0 \Big) \, g_{CE}

    with the products over all parameters at once. It is for loops that step the optimizer themselves, see the example;
    ``Distiller`` adds gradients as they are, and the callback ``GradientConflict`` shows how they lie to each other.

    Args:
        cross_entropy: Gradient of the cross entropy for each parameter, 0 for one that it does not reach.
        distillation: Gradient of the other terms, in the same order.

    Returns:
        The gradient of each parameter for the optimizer.

    Raises:
        InputError: If the gradients are not of the same parameters.

    Example:
        >>> weight = torch.ones(2, requires_grad=True)
        >>> losses = [weight[0], weight.sum() - 3 * weight[0]]
        >>> given = [torch.autograd.grad(loss, [weight], retain_graph=True, materialize_grads=True) for loss in losses]
        >>> given
        [(tensor([1., 0.]),), (tensor([-2.,  1.]),)]
        >>> (weight.grad,) = aligned_gradients(*given)
        >>> weight.grad
        tensor([1., 1.])
    """
    shapes = [[tuple(gradient.shape) for gradient in gradients] for gradients in (cross_entropy, distillation)]
    require(shapes[0] == shapes[1], "distillation", f"gradients of shapes {shapes[1]}", f"of shapes {shapes[0]}")
    # sums over all parameters, in which half precision would overflow
    pairs = [
        tuple(g.to(torch.promote_types(g.dtype, torch.float32)) for g in pair)
        for pair in zip(cross_entropy, distillation, strict=True)
    ]
    product = torch.stack([(ce * kd).sum() for ce, kd in pairs]).sum()
    square = torch.stack([ce.square().sum() for ce, _ in pairs]).sum()
    contradicts = torch.where(product < 0, product / square, 0)
    return [(ce + kd - contradicts * ce).to(given.dtype) for (ce, kd), given in zip(pairs, cross_entropy, strict=True)]


class DHKD(LogitLoss):
    r"""A second head on the student's last feature learns the teacher's logits themselves; the first one, the labels.

    Paper: Yang et al., Dual-Head Knowledge Distillation: Enhancing Logits Utilization with an Auxiliary Head, arXiv
        2024, https://arxiv.org/abs/2411.08937

    .. math:: \frac{T^2}{B} \sum_{b, c} \log \cosh \frac{a_{bc} - z^t_{bc}}{2 T}

    with the second head's logits a: what :func:`dhkd` says, the divergence of a fair coin from
    :math:`\sigma\big( (a - z^t) / T \big)`. A loss on logits and cross entropy contradict each other in a classifier,
    but not in the layers before it, say the authors. The second head is built from the shapes of a dry run and dropped
    after training; the student's own answer has no part in this term. On CIFAR-100 they take this head with weight 1
    beside cross entropy with weight 1, on ImageNet a linear one with weight 0.1.

    Args:
        layer: Path of what the student's own classifier sees: a map or tokens, which are averaged, or a vector.
        temperature: Divides the differences of logits.
        hidden: Width of the second head's hidden layer; 0 makes it linear.

    Shape:
        Feature of the student ``(B, D, H, W)``, ``(B, N, D)`` or ``(B, D)``; logits of the teacher ``(B, C)``; output a
        scalar.

    Raises:
        InputError: If the temperature is not positive, ``hidden`` is negative, the feature has another shape, or the
            loss is called before :meth:`build`.

    Traps:
        - The authors also take from this term's gradient what contradicts that of cross entropy, where it does:
          :func:`aligned_gradients`, for a loop of your own.
        - The released code keeps the probability within 1e-8 of 0 and 1, beyond which there is no gradient; here
          there is one at any distance.

    Code: ``penghui-yang/DHKD:distiller_zoo/BinaryKLNorm.py``, equal to this but for that bound, and
        ``helper/optimizer.py`` for the gradients.

    Example:
        >>> outputs = Outputs(torch.zeros(2, 10), {"layer3": torch.randn(2, 64, 2, 2)})
        >>> loss = DHKD(layer="layer3")
        >>> loss.build(outputs, outputs)
        >>> loss(outputs, outputs, torch.tensor([0, 3])).shape
        torch.Size([])
    """

    def __init__(self, layer: str, temperature: float = 2.0, hidden: int = 200, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_temperature(temperature)
        require(hidden >= 0, "hidden", hidden, "0 or positive")
        # the head is compared with the teacher as a whole, whose path is empty
        self.layers = {layer: ""}
        self.temperature = temperature
        self.hidden = hidden
        self.head: AuxiliaryHead | None = None

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Create the second head, on the device of the feature.

        Args:
            student: What the student said about the example batch.
            teacher: What the teacher said about it.
        """
        ((layer, _),) = self.layers.items()
        self.head = AuxiliaryHead(student.features[layer], teacher.logits.shape[-1], self.hidden, path=layer)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Mean divergence of the batch, times the square of the temperature."""
        if self.head is None:
            raise InputError("DHKD must be built with the outputs of a dry run before it is called, got no build()")
        ((layer, _),) = self.layers.items()
        return dhkd(self.head(student.features[layer]), teacher.logits, self.temperature)
