"""SGD that remembers the gradients of an objective's terms for different lengths of time."""

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import torch
import torch._functorch.config
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from lit_distill.errors import InputError

# The buffer of all terms that are not named, called as torch.optim.SGD calls its only one.
REST = "momentum_buffer"


class TermSGD(Optimizer):
    r"""SGD in which terms of the objective have momentum buffers of their own.

    Terms with the same momentum share a buffer, so that there are as many groups :math:`k` of terms as different
    momenta. With their gradients :math:`g_k`, and :math:`\delta_k` out of ``deltas`` or ``others``, a step is

    .. math:: v_k \leftarrow (m + \delta_k)\, v_k + g_k + [k = k^-]\, \lambda p, \qquad
        p \leftarrow p - \eta \sum_k v_k

    where :math:`\eta` is the learning rate, m the momentum, :math:`\lambda` the weight decay, and :math:`k^-` the group
    with the lowest momentum. A parameter to which all groups but one give a gradient of 0 (a projector, or the
    classifier beside terms on features) keeps the momentum m. Where every :math:`\delta_k` is 0 this is
    ``torch.optim.SGD``.

    ``Distiller`` and every other ``ClassificationModule`` train with it as with any optimizer: in mixed precision with
    and without a scaler, with accumulated gradients, under ddp and fsdp2. In a loop of your own, :meth:`backward` takes
    the place of ``loss.backward()``::

        optimizer = DOT(student.parameters(), lr=0.05, weight_decay=5e-4)
        for x, y in batches:
            ce, kd = ...  # each multiplied by its weight
            optimizer.zero_grad()
            optimizer.backward({"ce": ce, "kd": kd})  # {"ce": scaler.scale(ce), "kd": scaler.scale(kd)}
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)  # after scaler.unscale_(optimizer)
            optimizer.step()  # scaler.step(optimizer)

    ``p.grad`` is the gradient of all terms together, as everywhere. Whatever scales it as a whole before the step (a
    ``GradScaler``, clipping by norm) scales the gradients of all groups alike; any other change (clipping by value)
    falls to the terms that are not named. A scaler skips the step where the gradient of any group is not finite.

    A step costs a backward pass for each group, and the memory of a buffer for each and of a gradient for all but one.
    An accelerator is asked once a step which gradients are 0.

    Args:
        params: The parameters.
        lr: Learning rate.
        momentum: What the momenta of all terms start from, in [0, 1).
        weight_decay: Factor of the weights in the gradient.
        deltas: What to add to ``momentum`` for each of these terms, by name; default: no terms.
        others: What to add to ``momentum`` for all other terms.

    Raises:
        InputError: When a number is out of range (every momentum must lie in [0, 1)), a name is that of no term, or a
            step is due and the gradients are not from :meth:`backward`.

    Example:
        >>> p = torch.nn.Parameter(torch.ones(1))
        >>> optimizer = TermSGD([p], lr=0.1, momentum=0.5, deltas={"ce": -0.5}, others=0.25)
        >>> for _ in range(2):
        ...     optimizer.zero_grad()
        ...     optimizer.backward({"ce": 2 * p.sum(), "kd": 4 * p.sum()})
        ...     optimizer.step()
        >>> sorted((name, value.item()) for name, value in optimizer.state[p].items())  # 0.75 * 4 + 4, and 0 * 2 + 2
        [('momentum_buffer', 7.0), ('momentum_buffer_ce', 2.0)]
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        deltas: dict[str, float] | None = None,
        others: float = 0.0,
    ) -> None:
        for name, value in {"lr": lr, "weight_decay": weight_decay}.items():
            if value < 0:
                raise InputError(f"{name}: {value} given to {type(self).__name__}; accepted is 0 or a positive number")
        #: What is added to the momentum of each buffer, by the name of the buffer.
        self.buffers = {REST: others}
        #: The buffer of each term that is named.
        self.buffer_of: dict[str, str] = {}
        for term, delta in (deltas or {}).items():
            same = (buffer for buffer, known in self.buffers.items() if known == delta)
            self.buffer_of[term] = next(same, f"{REST}_{term}")
            self.buffers[self.buffer_of[term]] = delta
        self._momenta(momentum)
        self._forget()
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        # Compiled networks free their activations in the first backward pass otherwise; read at their first call.
        torch._functorch.config.donated_buffer = False

    def backward(self, terms: Mapping[str, Tensor]) -> None:
        """Add the gradients of the terms to those that are there, as ``loss.backward()`` does with their sum.

        Args:
            terms: Every term of the objective by name, a scalar multiplied by its weight.

        Raises:
            InputError: When one of ``deltas`` is for a term that is not there.
        """
        if missing := [name for name in self.buffer_of if name not in terms]:
            raise InputError(
                f"optimizer: {type(self).__name__} has a momentum for the term {missing[0]!r}, which is none of the "
                f"terms: {', '.join(terms)}"
            )
        losses: dict[str, Tensor] = {}
        for name, term in terms.items():
            if term.requires_grad:
                buffer = self.buffer_of.get(name, REST)
                losses[buffer] = losses[buffer] + term if buffer in losses else term
        params = self._params()
        total = {p: p.grad for p in params if p.grad is not None}
        if not total:
            self._forget()  # somebody else has set them to None
        passes = [buffer for buffer in self.buffers if buffer in losses]
        for buffer in self.buffers:
            for p in params:
                p.grad = None
            if buffer in losses:
                losses[buffer].backward(retain_graph=buffer != passes[-1])
            new = {p: p.grad for p in params if p.grad is not None}
            _add(_sizes(new), to=self._reached.setdefault(buffer, {}))
            if buffer != REST:  # the first; its gradient is what the others leave of the total
                _add(new, to=self._parts.setdefault(buffer, {}))
                new = {p: gradient if p in total else gradient.clone() for p, gradient in new.items()}
            _add(new, to=total)
        for p in params:
            p.grad = total.get(p)
        self._size = self._size_now()

    @torch.no_grad()
    def average(self) -> None:
        """Replace all gradients by their means over the ranks of the default process group.

        For gradients that nobody else averages: under ddp, whose own exchange must then be switched off
        (``DistributedDataParallel.no_sync()``), because it takes one backward pass after a forward pass and no more.
        """
        params = self._params()
        here = torch.tensor([p.grad is not None for p in params], dtype=torch.uint8, device=params[0].device)
        torch.distributed.all_reduce(here, torch.distributed.ReduceOp.MAX)
        every: list[Tensor] = []
        for p, somewhere in zip(params, here.tolist(), strict=True):
            if somewhere:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                every += [p.grad, *(part.setdefault(p, torch.zeros_like(p)) for part in self._parts.values())]
        flat = torch.cat([gradient.flatten() for gradient in every])
        torch.distributed.all_reduce(flat)
        flat /= torch.distributed.get_world_size()
        for gradient, mean in zip(every, flat.split([gradient.numel() for gradient in every]), strict=True):
            gradient.copy_(mean.view_as(gradient))
        self._size = self._size_now()
        self._averaged = True

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step.

        Args:
            closure: Makes the gradients, and returns the loss.

        Returns:
            What the closure returned.

        Raises:
            InputError: When the gradients are not from :meth:`backward`, or a scheduler has moved a momentum out of
                [0, 1).
        """
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        self._rescale()
        shared = self._shared()
        decayed = min(self.buffers, key=lambda buffer: self.buffers[buffer])
        for group in self.param_groups:
            momenta = self._momenta(group["momentum"])
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            if not self._reached and group["lr"] != 0:  # distributed checkpoints want the state, and take a step of 0
                raise InputError(
                    f"optimizer: {type(self).__name__} needs the gradient of each term; let its backward(terms) make "
                    "them, as Distiller does, and not loss.backward()"
                )
            weights = [_local(p) for p in params]
            rest = [_local(p.grad) for p in params]
            velocities = []
            for buffer in reversed(self.buffers):
                gradients = rest
                if buffer != REST:
                    part = self._parts.get(buffer, {})
                    gradients = [_local(part[p]) if p in part else torch.zeros_like(_local(p)) for p in params]
                    rest = list(torch._foreach_sub(rest, gradients))
                if buffer == decayed and group["weight_decay"] != 0:
                    gradients = list(torch._foreach_add(gradients, weights, alpha=group["weight_decay"]))
                velocity = [_local(self._buffer(p, buffer)) for p in params]
                torch._foreach_mul_(velocity, [momenta[buffer] if p in shared else group["momentum"] for p in params])
                torch._foreach_add_(velocity, gradients)
                velocities.append(velocity)
            for velocity in velocities:
                torch._foreach_add_(weights, velocity, alpha=-group["lr"])
        return result

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all terms.

        Args:
            set_to_none: Whether ``p.grad`` becomes None, or 0.
        """
        super().zero_grad(set_to_none)
        self._forget()

    def _forget(self) -> None:
        self._parts: dict[str, dict[Tensor, Tensor]] = {}  # gradients by buffer, all but REST
        self._reached: dict[str, dict[Tensor, Tensor]] = {}  # their sizes by buffer, REST too
        self._size = torch.zeros(())  # of p.grad as a whole, when the parts were made
        self._averaged = False

    def _params(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"] if p.requires_grad]

    def _momenta(self, momentum: float) -> dict[str, float]:
        for delta in (0.0, *self.buffers.values()):
            if not 0 <= momentum + delta < 1:
                raise InputError(
                    f"momentum: {momentum:g} with a delta of {delta:g} is {momentum + delta:.4g} in "
                    f"{type(self).__name__}; accepted is what is in [0, 1) with every delta and with none"
                )
        return {buffer: momentum + delta for buffer, delta in self.buffers.items()}

    def _size_now(self) -> Tensor:
        sizes = list(_sizes({p: p.grad for p in self._params() if p.grad is not None}).values())
        return torch.stack(sizes).sum() if sizes else torch.zeros(())

    def _rescale(self) -> None:
        """Multiply the parts by what ``p.grad`` has been multiplied by since they were made.

        Where the gradients of all groups cancel out everywhere that is unknown, and they count as 0.
        """
        if parts := [_local(gradient) for part in self._parts.values() for gradient in part.values()]:
            size = self._size_now()
            torch._foreach_mul_(parts, size / self._size.clamp_min(torch.finfo(torch.float32).tiny))
            self._size = size

    def _shared(self) -> set[Tensor]:
        """The parameters to which more than one group gives a gradient, on whatever rank."""
        params = [p for p in self._params() if p.grad is not None]
        if len(self._reached) < 2 or not params:
            return set()
        zero = torch.zeros((), device=params[0].device)
        sizes = torch.stack([torch.stack([of.get(p, zero) for p in params]) for of in self._reached.values()])
        if self._averaged or isinstance(params[0], DTensor):
            group = params[0].device_mesh.get_group() if isinstance(params[0], DTensor) else None
            torch.distributed.all_reduce(sizes, torch.distributed.ReduceOp.MAX, group)
        return {p for p, both in zip(params, ((sizes > 0).sum(0) > 1).tolist(), strict=True) if both}

    def _buffer(self, p: Tensor, name: str) -> Tensor:
        if name not in self.state[p]:
            self.state[p][name] = torch.zeros_like(p)
        return self.state[p][name]


def _add(new: Mapping[Tensor, Tensor], to: dict[Tensor, Tensor]) -> None:
    """Add values to others in place; those without another are taken over."""
    known = [p for p in new if p in to]
    if known:
        torch._foreach_add_([_local(to[p]) for p in known], [_local(new[p]) for p in known])
    to.update({p: value for p, value in new.items() if p not in to})


def _sizes(gradients: Mapping[Tensor, Tensor]) -> dict[Tensor, Tensor]:
    """The sum of magnitudes of each gradient, or of this rank's shard of it."""
    # Not the 2-norm: squares of small numbers are 0. The ratio of sizes is the same for every shard and norm.
    local = [_local(gradient) for gradient in gradients.values()]
    if not local:
        return {}
    dtype = reduce(torch.promote_types, (gradient.dtype for gradient in local), torch.float32)
    return dict(zip(gradients, torch._foreach_norm(local, 1, dtype), strict=True))


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
