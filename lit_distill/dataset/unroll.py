"""Training a network for some steps, differentiable for what it is trained on."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from lit_distill.errors import InputError
from lit_distill.losses.precision import fp32

#: How gradients come back through the steps; see :func:`unroll`.
Route = Literal["full", "recompute", "tesla"]

#: ``loss(weights, images, targets, i)``: the scalar that step ``i`` descends, the same whenever it is asked again.
StepLoss = Callable[[Tensor, Tensor, Tensor, int], Tensor]


class Stateless:
    """A network as a function of its weights, all of which are one vector.

    Args:
        network: The network; its own weights stay as they are.

    Raises:
        InputError: When it keeps more than weights, as BatchNorm does, or is random, as dropout is.

    Example:
        >>> network = Stateless(nn.Linear(2, 3))
        >>> weights = network.flat()
        >>> weights.shape, network(weights, torch.zeros(5, 2)).shape
        (torch.Size([9]), torch.Size([5, 3]))
    """

    def __init__(self, network: nn.Module) -> None:
        for name, module in network.named_modules():
            if next(module.buffers(recurse=False), None) is not None or getattr(module, "p", 0) > 0:
                raise InputError(
                    f"network: {name} ({type(module).__name__}) is no function of weights alone; accepted are networks "
                    "without BatchNorm and dropout, e.g. CondensationConvNet with norm instance"
                )
        self.network = network
        self.shapes = {name: tuple(p.shape) for name, p in network.named_parameters()}
        self._sizes = [p.numel() for p in network.parameters()]

    def flat(self) -> Tensor:
        """The network's own weights, a copy, ``(P,)``."""
        return torch.cat([p.detach().flatten() for p in self.network.parameters()])

    def parts(self, weights: Tensor) -> dict[str, Tensor]:
        """Views of the weights by the network's names.

        Args:
            weights: ``(P,)``.
        """
        parts = weights.split(self._sizes)  # one node of the graph, however many tensors
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def __call__(self, weights: Tensor, x: Tensor) -> Tensor:
        """What the network with these weights says.

        Args:
            weights: ``(P,)``.
            x: Its input.
        """
        return cast(Tensor, functional_call(self.network, self.parts(weights), (x,)))


def batches_of(count: int, size: int | None, steps: int, generator: torch.Generator) -> list[Tensor]:
    """Which images each step sees: all of them in a random order, then all again.

    As in the code of trajectory matching a batch that is left over comes first.

    Args:
        count: How many images there are.
        size: Images a step; default: all.
        steps: How many steps.
        generator: For the order.

    Example:
        >>> [len(rows) for rows in batches_of(10, 4, 5, torch.Generator())]
        [2, 4, 4, 2, 4]
    """
    batches: list[Tensor] = []
    while len(batches) < steps:
        batches += reversed(torch.randperm(count, generator=generator).split(size or count))
    return batches[:steps]


@fp32
def unroll(
    loss: StepLoss,
    start: Tensor,
    images: Tensor,
    targets: Tensor,
    step_size: Tensor,
    batches: Sequence[Tensor],
    momentum: float = 0.0,
    route: Route = "recompute",
    at: Sequence[int] | None = None,
) -> Tensor:
    r"""The weights after some steps of SGD, differentiable for images, targets, step sizes and first weights.

    .. math:: g_i = \nabla_\theta \ell(\theta_i; X_i, Y_i), \qquad v_i = \mu v_{i-1} + g_i, \qquad
        \theta_{i+1} = \theta_i - \eta_i v_i

    Routes of the gradient :math:`\lambda = \partial L / \partial \theta_N`:

    - ``full``: the graph of all steps is kept until then. Exact, and a quarter faster where there is the memory.
    - ``recompute``: weights are kept, and steps are replayed from the last to the first, one graph at a time. With
      :math:`\bar v \leftarrow \mu \bar v - \eta_i \lambda` each step adds the gradient of
      :math:`\langle \bar v, g_i \rangle` for its images and targets to theirs, that for :math:`\theta_i` to
      :math:`\lambda`, and :math:`-\langle \lambda, v_i \rangle` to that of its step size. Exact, in the memory of one
      step.
    - ``tesla``: likewise, but :math:`\lambda` stays what it was: how later steps depend on earlier weights is left out.
      Equal to the others for one step alone; Cui et al., Scaling Up Dataset Distillation to ImageNet-1K with Constant
      Memory, ICML 2023, https://arxiv.org/abs/2211.10586.

    Replaying by hand is in ``ssnl/dataset-distillation:train_distilled_image.py``, and with momentum in
    ``princetonvisualai/RememberThePast-DatasetDistillation:models/compressor_bptt_standard.py``.

    Args:
        loss: What the steps descend. Steps are replayed, so it must not draw new random numbers, and gradients flow
            into its arguments alone.
        start: First weights, ``(P,)``.
        images: ``(M, ...)``.
        targets: ``(M, ...)``; learned ones are floating-point.
        step_size: One number, or one for each step.
        batches: For each step which images it sees, int64.
        momentum: :math:`\mu`.
        route: How gradients come back.
        at: After how many steps the weights are wanted, from 1. Default: after the last.

    Returns:
        Weights ``(P,)``; with ``at`` ``(len(at), P)``.

    Raises:
        InputError: When there is no such route, or the step sizes are not as many as the steps.

    Example:
        >>> def loss(weights, x, y, i):
        ...     return ((x @ weights - y) ** 2).mean() / 2
        >>> x = torch.ones(1, 1, requires_grad=True)
        >>> rows = [torch.tensor([0])] * 2
        >>> weights = unroll(loss, torch.zeros(1), x, torch.ones(1), torch.tensor(0.5), rows)
        >>> weights.detach(), torch.autograd.grad(weights.sum(), x)[0]
        (tensor([0.7500]), tensor([[0.2500]]))
    """
    if route not in get_args(Route):
        raise InputError(f"route: {route!r} given; accepted are {', '.join(get_args(Route))}")
    steps = len(batches)
    if step_size.numel() not in (1, steps):
        raise InputError(f"step_size must be one number or {steps}, one a step, not {step_size.numel()}")
    places = (steps,) if at is None else tuple(at)
    sizes = step_size.reshape(-1).expand(steps)
    rows = [row.to(images.device) for row in batches]
    if route == "full":
        weights = _kept(loss, start, images, targets, sizes, rows, momentum, places)
    else:
        weights = cast(
            Tensor,
            _Replayed.apply(loss, rows, momentum, places, route == "recompute", start, images, targets, sizes),
        )
    return weights[0] if at is None else weights


def _kept(
    loss: StepLoss,
    start: Tensor,
    images: Tensor,
    targets: Tensor,
    sizes: Tensor,
    rows: list[Tensor],
    momentum: float,
    places: tuple[int, ...],
) -> Tensor:
    weights = start if start.requires_grad else start.detach().requires_grad_()
    velocity, seen = None, []
    for i, row in enumerate(rows):
        value = loss(weights, images[row], targets[row], i)
        (gradient,) = torch.autograd.grad(value, weights, create_graph=True)
        velocity = gradient if velocity is None or momentum == 0 else momentum * velocity + gradient
        weights = weights - sizes[i] * velocity
        seen.append(weights)
    return torch.stack([seen[place - 1] for place in places])


class _Replayed(torch.autograd.Function):
    """Steps without a graph, which are replayed from the last to the first."""

    @staticmethod
    def forward(
        ctx: Any,
        loss: StepLoss,
        rows: list[Tensor],
        momentum: float,
        places: tuple[int, ...],
        exact: bool,
        start: Tensor,
        images: Tensor,
        targets: Tensor,
        sizes: Tensor,
    ) -> Tensor:
        weights = [start.detach()]
        velocities: list[Tensor] = []
        for i, row in enumerate(rows):
            at = weights[-1].requires_grad_()
            with torch.enable_grad():
                value = loss(at, images.detach()[row], targets.detach()[row], i)
            (velocity,) = torch.autograd.grad(value, at)
            if momentum:
                velocity = momentum * velocities[-1] + velocity if velocities else velocity
                velocities.append(velocity)
            # rounded as where the graph is kept: after many steps one ReLU that flips is a large difference
            weights.append(at.detach() - sizes[i] * velocity)
        ctx.save_for_backward(images, targets, sizes, *(at.detach() for at in weights), *velocities)
        ctx.given = loss, rows, momentum, places, exact
        return torch.stack([weights[place].detach() for place in places])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor | None, ...]:
        loss, rows, momentum, places, exact = ctx.given
        images, targets, sizes, *kept = ctx.saved_tensors
        weights, velocities = kept[: len(rows) + 1], kept[len(rows) + 1 :]
        of_images, of_targets, of_sizes = ctx.needs_input_grad[-3:]
        d_images = torch.zeros_like(images) if of_images else None
        d_targets = torch.zeros_like(targets) if of_targets else None
        d_sizes = torch.zeros_like(sizes) if of_sizes else None
        d_weights, d_velocity = torch.zeros_like(weights[0]), torch.zeros_like(weights[0])
        for i in reversed(range(len(rows))):
            for place, part in zip(places, given, strict=True):
                d_weights = d_weights + part if place == i + 1 else d_weights
            with torch.enable_grad():
                at = weights[i].detach().requires_grad_()
                x, y = images.detach()[rows[i]].requires_grad_(of_images), targets.detach()[rows[i]]
                y = y.requires_grad_() if of_targets else y
                (gradient,) = torch.autograd.grad(loss(at, x, y, i), at, create_graph=True)
            if d_sizes is not None:
                d_sizes[i] = -torch.dot(d_weights, velocities[i] if momentum else gradient.detach())
            d_velocity = momentum * d_velocity - sizes[i] * d_weights
            wanted = [part for part, is_wanted in ((at, exact), (x, of_images), (y, of_targets)) if is_wanted]
            found = list(torch.autograd.grad(gradient, wanted, d_velocity, allow_unused=True)) if wanted else []
            if exact:
                change = found.pop(0)
                d_weights = d_weights if change is None else d_weights + change
            for total in (d_images, d_targets):
                if total is not None and (change := found.pop(0)) is not None:
                    total.index_add_(0, rows[i], change)
        return None, None, None, None, None, d_weights, d_images, d_targets, d_sizes
