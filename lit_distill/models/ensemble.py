"""Several networks that answer as one."""

from collections.abc import Mapping
from typing import Literal, cast

import torch
from torch import Tensor, nn

from lit_distill.errors import InputError


class Ensemble(nn.Module):
    r"""The (weighted) mean of what several networks say about the same input.

    ``average="logits"`` gives the mean of the logits :math:`z_k`, the geometric mean of the predictions up to
    normalisation: every member can veto a class. ``average="probabilities"`` gives the logarithm of the
    arithmetic mean, which is itself a log-probability: a class needs one member's vote.

    .. math::

        z = \sum_k w_k z_k, \qquad z = \log \sum_k w_k \, \mathrm{softmax}(z_k), \qquad \sum_k w_k = 1

    A member's own logits are tapped at ``members.<name>``, its features at ``members.<name>.<path>``.

    >>> ensemble = Ensemble({"one": nn.Linear(4, 3), "two": nn.Linear(4, 3)}, weights={"one": 2.0})
    >>> [round(share, 3) for share in ensemble.shares.tolist()]
    [0.667, 0.333]

    Args:
        members: The networks by name.
        weights: Share of each member, relative to the others; one that is not named has 1. Default: all equal.
        average: Mean of ``logits``, or of ``probabilities``.

    Raises:
        InputError: No members, a name that cannot be part of a path, weights for unknown members or that are
            negative or sum to nothing; at the first batch: members with different numbers of classes.
    """

    shares: Tensor

    def __init__(
        self,
        members: dict[str, nn.Module],
        weights: dict[str, float] | None = None,
        average: Literal["logits", "probabilities"] = "logits",
    ) -> None:
        super().__init__()
        self.members = _named(members)
        weights = weights or {}
        unknown = sorted(set(weights) - set(members))
        if unknown:
            raise InputError(f"weights: no member is called {', '.join(unknown)}; the members are {', '.join(members)}")
        shares = torch.tensor([float(weights.get(name, 1.0)) for name in members], dtype=torch.float64)
        if not bool(shares.isfinite().all()) or bool((shares < 0).any()) or not bool(shares.any()):
            raise InputError(f"weights must not be negative or all zero, not {weights}")
        if average not in ("logits", "probabilities"):
            raise InputError(f"average must be logits or probabilities, not {average!r}")
        self.average = average
        self.register_buffer("shares", (shares / shares.sum()).float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Inputs ``(B, ...)`` to logits ``(B, C)``."""
        logits = _answers(self.members, x)
        shares = self.shares.view(-1, *[1] * (logits.ndim - 1))
        if self.average == "logits":
            return (shares * logits).sum(0)
        return (logits.log_softmax(2) + shares.log()).logsumexp(0)


class MostConfident(nn.Module):
    """Route each sample to the member with the largest probability for any class; of equals, to the first."""

    def forward(self, logits: Tensor) -> Tensor:
        """Logits of the members ``(K, B, C)`` to weights ``(B, K)``, one of each row 1 and the others 0."""
        chosen = logits.softmax(2).amax(2).argmax(0)
        return nn.functional.one_hot(chosen, len(logits)).to(logits.dtype)


class RoutedEnsemble(nn.Module):
    r"""Several networks of which each sample listens to its own.

    .. math:: z_b = \sum_k w_{bk} \, z_{kb}, \qquad w = \mathrm{route}(z)

    A member's own logits are tapped at ``members.<name>``, its features at ``members.<name>.<path>``.

    Args:
        members: The networks by name.
        route: Maps the logits of all members ``(K, B, C)`` to the weights of each sample ``(B, K)``. Default:
            weight 1 for the member with the largest probability for any class, :class:`MostConfident`.

    Raises:
        InputError: No members, or a name that cannot be part of a path; at the first batch: members with
            different numbers of classes, or weights of another shape.
    """

    def __init__(self, members: dict[str, nn.Module], route: nn.Module | None = None) -> None:
        super().__init__()
        self.members = _named(members)
        self.route = MostConfident() if route is None else route

    def forward(self, x: Tensor) -> Tensor:
        """Inputs ``(B, ...)`` to logits ``(B, C)``."""
        logits = _answers(self.members, x)
        weights = cast(Tensor, self.route(logits))
        if weights.shape != (logits.shape[1], len(logits)):
            raise InputError(
                f"route must give weights (batch, members) = {(logits.shape[1], len(logits))}, "
                f"not {tuple(weights.shape)}"
            )
        weights = weights.T.unsqueeze(2)
        # A member with weight 0 has no say even where its logit is infinite (a masked class).
        return torch.where(weights == 0, 0.0, weights * logits).sum(0)


def _named(members: Mapping[str, nn.Module]) -> nn.ModuleDict:
    if not members:
        raise InputError("members must name at least one network")
    try:
        return nn.ModuleDict(members)
    except KeyError as error:
        raise InputError(f"members: {error.args[0]}, choose another name") from error


def _answers(members: nn.ModuleDict, x: Tensor) -> Tensor:
    """Logits of all members, ``(K, B, C)``, at least in float32: averages lose what members disagree on."""
    logits = {name: cast(Tensor, member(x)) for name, member in members.items()}
    if len({answer.shape for answer in logits.values()}) > 1:
        shapes = ", ".join(f"{name} {tuple(answer.shape[1:])}" for name, answer in logits.items())
        raise InputError(f"members must have the same classes, but their logits have shapes {shapes}")
    stacked = torch.stack(list(logits.values()))
    return stacked.to(torch.promote_types(stacked.dtype, torch.float32))
