"""Memory of contrastive terms: what both networks said about every training sample when it was last seen."""

import hashlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_distill.errors import InputError

#: Class of a sample that was not seen yet; sorts before every class.
UNSEEN = -1


def negatives(classes: Tensor, labels: Tensor, draws: Tensor) -> Tensor:
    """Positions of samples of other classes, uniformly among those seen, with replacement.

    All anchors at once, on the device and without asking it for a number: sorted by class, the samples of other
    classes lie before and after one gap, and a random number finds its place by skipping the gap.

    Args:
        classes: Class of every sample, -1 for one that was not seen, ``(N,)``.
        labels: Classes of the anchors, ``(B,)``, of which one at least was seen.
        draws: Random integers that are not negative, ``(B, K)``. Their remainders choose: 31 bits are uniform to one
            part in a thousand for two million samples.

    Returns:
        int64 ``(B, K)``. While samples of one class alone were seen, an anchor of that class gets those.

    Example:
        >>> negatives(torch.tensor([0, 1, -1, 0, 2]), torch.tensor([0, 2]), torch.tensor([[0, 1, 2], [0, 1, 2]]))
        tensor([[1, 4, 1],
                [0, 3, 1]])
    """
    order = classes.argsort(stable=True)
    ordered = classes[order]
    begin = torch.searchsorted(ordered, torch.zeros_like(labels))
    gap = torch.searchsorted(ordered, labels)
    width = torch.searchsorted(ordered, labels, right=True) - gap
    alone = begin + width == len(classes)
    width = width.masked_fill(alone, 0)
    others = len(classes) - begin - width
    begin, gap, width, others = (x.to(draws.dtype).unsqueeze(1) for x in (begin, gap, width, others))
    places = draws % others + begin
    places += (places >= gap) * width
    return order.index_select(0, places.flatten()).view_as(places)


def update(bank: Tensor, index: Tensor, embeddings: Tensor, momentum: float) -> None:
    r"""Move rows of a bank towards new embeddings, in place: :math:`w \leftarrow \mathrm{unit}(m w + (1 - m) v)`.

    A sample that is there twice, as two views, moves towards both.

    Args:
        bank: Unit vectors ``(N, D)``.
        index: Which rows, ``(B,)``.
        embeddings: Unit vectors ``(B, D)``.
        momentum: How much of a row stays, m.

    Example:
        >>> bank = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> update(bank, torch.tensor([0]), torch.tensor([[0.0, 1.0]]), momentum=0.5)
        >>> bank
        tensor([[0.7071, 0.7071],
                [0.0000, 1.0000]])
    """
    bank[index] = momentum * bank[index]
    bank.index_add_(0, index, (1 - momentum) * embeddings.to(bank.dtype))
    bank[index] = F.normalize(bank[index])


class Banks(nn.Module):
    """One row a training sample and network, the sample's class once it was seen, and a count of steps.

    Checkpoints hold them as extra state. As buffers DDP would send them to all ranks before every step, and a module
    in half precision would round them; the ranks agree as long as they make the same updates.

    Args:
        samples: Number of rows, N.
        width: Length of a row, D.
        momentum: How much of a row an update keeps.
        seed: Of the rows of samples not yet seen, uniform in each entry, and of all draws.
    """

    def __init__(self, samples: int, width: int, momentum: float, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        bound = (3 / width) ** 0.5
        rows = torch.rand(2, samples, width, generator=generator) * (2 * bound) - bound
        self.momentum = momentum
        self.seed = seed
        self.steps = 0
        self.state = {
            "student": rows[0],
            "teacher": rows[1],
            "classes": torch.full((samples,), UNSEEN),
            "log_means": torch.zeros(2),
        }
        self.pending: tuple[Tensor, Tensor] | None = None

    def on(self, device: torch.device) -> dict[str, Tensor]:
        """``student`` and ``teacher`` rows ``(N, D)``, ``classes`` ``(N,)`` and ``log_means`` ``(2,)``, on a device."""
        if self.state["student"].device != device:
            self.state = {name: value.to(device) for name, value in self.state.items()}
        if self.pending is not None:
            index, embeddings = self.pending
            self.pending = None
            for name, own in zip(("student", "teacher"), embeddings.chunk(2, 1), strict=True):
                update(self.state[name], index, own, self.momentum)
        return self.state

    def remember(self, index: Tensor, embeddings: Tensor, classes: Tensor, log_means: Tensor) -> None:
        """End a step. Rows change at the next look at them: the backward pass of this step needs them as they are.

        Args:
            index: Samples of all ranks, ``(B,)``.
            embeddings: Those of the student beside those of the teacher, ``(B, 2 D)``.
            classes: What ``classes`` becomes.
            log_means: What ``log_means`` becomes.
        """
        self.pending = index, embeddings
        self.state |= {"classes": classes, "log_means": log_means}
        self.steps += 1

    def draws(self, rows: int, count: int, device: torch.device) -> Tensor:
        """Random integers of 31 bits of this step, int32 ``(rows, count)``: the same on every rank."""
        digest = hashlib.sha256(f"{self.seed} {self.steps}".encode()).digest()
        generator = torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little"))
        return torch.empty(rows, count, dtype=torch.int32, device=device).random_(generator=generator)

    def get_extra_state(self) -> dict[str, Tensor]:
        """Everything, for checkpoints."""
        return {**self.on(self.state["student"].device), "steps": torch.tensor(self.steps)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint.

        Raises:
            InputError: If it has another number of samples or length of embeddings.
        """
        given, own = (tuple(rows["student"].shape) for rows in (state, self.state))
        if given != own:
            raise InputError(f"samples, embedding must be those of the checkpoint, {given}, got {own}")
        self.state = {name: state[name].clone() for name in self.state}
        self.steps = int(state["steps"])
        self.pending = None
