"""Gradient matching (DC, DSA, IDC)."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm

from lit_distill.dataset.all_classes import real_of_all
from lit_distill.dataset.objectives.base import Objective
from lit_distill.dataset.pieces import pieces
from lit_distill.dataset.step import Purpose, Step
from lit_distill.errors import InputError
from lit_distill.losses.precision import fp32

Distance = Literal["rows", "cosine", "squares", "absolute", "row_means"]
Matched = Literal["all", "matrices", "convolutions"]

EPSILON = 1e-6
STATISTICS = 16  # real images a class that BatchNorm sees

# Dimensions that gradients must have to be matched.
DIMENSIONS: dict[str, range] = {"all": range(10), "matrices": range(2, 10), "convolutions": range(3, 10)}


@fp32
def cosine_distance(synthetic: Tensor, real: Tensor) -> Tensor:
    r"""One less the cosine of the angle between the rows of two tensors, summed over rows.

    .. math:: \sum_i \Big( 1 - \frac{\langle a_i, b_i \rangle}{\lVert a_i \rVert \lVert b_i \rVert + 10^{-6}} \Big)

    Args:
        synthetic: ``(..., D)``.
        real: ``(..., D)``.

    Example:
        >>> cosine_distance(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
        tensor(1.0000)
    """
    norms = synthetic.norm(dim=-1) * real.norm(dim=-1)
    return (1 - (synthetic * real).sum(-1) / (norms + EPSILON)).sum()


@fp32
def difference(synthetic: Tensor, real: Tensor, distance: Distance) -> Tensor:
    """Sum over what tensors differ by: its ``squares``, its ``absolute`` values, or their means over each row.

    Args:
        synthetic: ``(..., D)``.
        real: ``(..., D)``.
        distance: Which of them.
    """
    gap = synthetic - real
    if distance == "squares":
        return gap.square().sum()
    return gap.abs().mean(-1).sum() if distance == "row_means" else gap.abs().sum()


def gradient_distance(synthetic: Sequence[Tensor], real: Sequence[Tensor], distance: Distance = "rows") -> Tensor:
    """How far gradients are from each other, summed over classes.

    Args:
        synthetic: Of each parameter ``(K, *shape)``, one gradient a class.
        real: Likewise.
        distance: ``rows``, the :func:`cosine_distance` of what belongs to one output of a layer, summed over outputs
            and layers; ``cosine``, that of all parameters as one vector; or the sum of a :func:`difference`,
            ``squares``, ``absolute`` or ``row_means``.
    """
    if distance == "cosine":
        whole = [torch.cat([x.flatten(1) for x in side], 1) for side in (synthetic, real)]
        return cosine_distance(*whole)
    terms = []
    for pair in zip(synthetic, real, strict=True):
        a, b = (x.flatten(2) if x.ndim > 2 else x[..., None] for x in pair)
        terms.append(cosine_distance(a, b) if distance == "rows" else difference(a, b, distance))
    return torch.stack(terms).sum()


def real_gradients(
    network: nn.Module, weights: dict[str, Tensor], images: Tensor, classes: Tensor
) -> tuple[Tensor, ...]:
    """Gradient of the mean cross entropy of each class for some parameters, ``(K, *shape)`` each, not differentiable.

    Args:
        network: Sees every image by itself.
        weights: The parameters by name.
        images: ``(K, n, C, H, W)``.
        classes: int64 ``(K,)``.
    """
    leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
    every = []
    for x, label in zip(images, classes, strict=True):
        total: list[Tensor] = []
        for part in pieces(x, network):
            logits = functional_call(network, leaves, (part,))
            loss = cross_entropy(logits, label.expand(len(part)), reduction="sum") / len(x)
            grads = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
            total = [a + b for a, b in zip(total, grads, strict=True)] if total else list(grads)
        every.append(total)
    return tuple(torch.stack(of_classes) for of_classes in zip(*every, strict=True))


def synthetic_gradients(
    network: nn.Module, weights: dict[str, Tensor], images: Tensor, classes: Tensor
) -> tuple[Tensor, ...]:
    """The same as :func:`real_gradients` of few images, in one pass for all classes and differentiable for the images.

    Args:
        network: Sees every image by itself.
        weights: The parameters by name.
        images: ``(K, n, C, H, W)``.
        classes: int64 ``(K,)``.
    """
    constants = {name: weight.detach() for name, weight in weights.items()}

    def loss(leaves: dict[str, Tensor], x: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(functional_call(network, leaves, (x,)), labels)

    labels = classes[:, None].expand(images.shape[:2])
    grads = vmap(grad(loss), in_dims=(None, 0, 0))(constants, images, labels)
    return tuple(grads[name] for name in weights)


class GradientMatching(Objective):
    r"""Synthetic images that give a network the same gradients as the real images of their class.

    Papers: Zhao, Mopuri and Bilen, Dataset Condensation with Gradient Matching (DC), ICLR 2021,
    https://arxiv.org/abs/2006.05929; Zhao and Bilen, Dataset Condensation with Differentiable Siamese Augmentation
    (DSA), ICML 2021, https://arxiv.org/abs/2102.08259; Kim et al., Dataset Condensation via Efficient
    Synthetic-Data Parameterization (IDC), ICML 2022, https://arxiv.org/abs/2205.14959

    .. math:: \sum_c \sum_l D\Big( \nabla_{\theta_l} \frac{1}{m} \sum_j \ell(f(s_{c,j}), c), \;
        \nabla_{\theta_l} \frac{1}{n} \sum_i \ell(f(x_{c,i}), c) \Big)

    with the cross entropy :math:`\ell`; each class by itself, since gradients of small batches of one class differ
    most where the classes do.

    DC and DSA take the defaults, and networks that are trained on the synthetic set between steps
    (:class:`TrainedOnSynthetic`); DSA adds :class:`SiameseAugmentation`. IDC takes ``weights: convolutions`` with
    ``absolute`` on grey images and on ImageNet, ``squares`` on CIFAR and SVHN, networks that are trained on real images
    (:class:`TrainedOnReal`), and :class:`MultiFormation`.

    The network answers in eval mode. Where it has BatchNorm, 16 real images of each class pass it before, in one batch
    that updates the running statistics by their momentum, as for the authors.

    Args:
        distance: ``rows``, one less the cosine of what belongs to one output of a layer, summed over outputs and layers
            (``ours`` of DC, ``cos`` of IDC); ``cosine``, that of all parameters as one vector (``cos`` of DC); or sums
            of ``squares`` (``mse``), of ``absolute`` differences (``l1``) or of their ``row_means`` (``l1_mean``).
        weights: Gradients of which parameters: ``all``, ``matrices`` (no biases, no scale or shift of a norm) or
            ``convolutions``.

    Raises:
        InputError: When the network has no such parameter, or an argument is unknown.

    Traps: ``rows`` of DC has no term of biases, ``cosine`` and ``squares`` of DC do (``weights: all``). IDC steps once
    a class; as the other classes then have a gradient of 0, one step for all is the same but for the momentum. Learning
    rates of IDC are of pixels in [0, 1]: divide by the square of the standard deviation of pixels.

    Code: ``VICO-UoE/DatasetCondensation:main.py``, ``utils.py`` (match_loss);
    ``snu-mllab/Efficient-Dataset-Condensation:condense.py`` (matchloss)
    """

    def __init__(self, distance: Distance = "rows", weights: Matched = "matrices") -> None:
        super().__init__()
        if distance not in ("rows", "cosine", "squares", "absolute", "row_means"):
            raise InputError(f"distance must be rows, cosine, squares, absolute or row_means, not {distance!r}")
        if weights not in DIMENSIONS:
            raise InputError(f"weights must be {', '.join(DIMENSIONS)}, not {weights!r}")
        self.distance = distance
        self.weights = weights

    def forward(self, step: Step, network: nn.Module) -> Tensor:
        """The distance between gradients, summed over this process's classes."""
        real, synthetic = step.real.images, step.synthetic.decode(step.classes).images
        classes = step.classes.to(real.device)
        if step.augment is not None:
            drawn = step.augment.draw([step.generator(Purpose.AUGMENT, int(c)) for c in step.classes])
            real, synthetic = step.augment(real, drawn), step.augment(synthetic, drawn)
        weights = self.matched(network)
        settle(network, step)
        of_real = real_gradients(network, weights, real, classes)
        return gradient_distance(synthetic_gradients(network, weights, synthetic, classes), of_real, self.distance)

    def matched(self, network: nn.Module) -> dict[str, Tensor]:
        """The parameters whose gradients are compared, by name.

        Args:
            network: The network.

        Raises:
            InputError: When there is none.
        """
        chosen: dict[str, Tensor] = {
            name: p for name, p in network.named_parameters() if p.ndim in DIMENSIONS[self.weights]
        }
        if not chosen:
            raise InputError(f"weights: {type(network).__name__} has no {self.weights}; accepted is all, or matrices")
        return chosen


def settle(network: nn.Module, step: Step) -> None:
    """Put a network into eval mode, its BatchNorm after a batch of real images of all classes.

    Args:
        network: The network.
        step: Whose images are taken.
    """
    network.eval()
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    if norms:
        images = real_of_all(step, STATISTICS).images.flatten(0, 1)
        for norm in norms:
            norm.train()
        with torch.no_grad():
            network(images)
        network.eval()
