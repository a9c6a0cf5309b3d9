"""Random numbers that a resumed run draws again, on every rank."""

import hashlib

import torch
from torch import Tensor, distributed, nn


class Draws(nn.Module):
    """Generators, one for each draw, whose state follows from a seed, the rank and the number of draws before.

    Checkpoints hold that number: a resumed run draws what an uninterrupted one would have drawn. One generator that
    lived on would have a state on each rank, of which a checkpoint holds rank 0's alone.

    Args:
        seed: Another seed, other numbers.

    Example:
        >>> draws, again = Draws(seed=1), Draws(seed=1)
        >>> first = torch.rand(3, generator=draws.generator(torch.device("cpu")))
        >>> torch.equal(first, torch.rand(3, generator=draws.generator(torch.device("cpu"))))
        False
        >>> torch.equal(first, torch.rand(3, generator=again.generator(torch.device("cpu"))))
        True
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed
        self.count = 0

    def generator(self, device: torch.device) -> torch.Generator:
        """A generator for the next draw.

        Args:
            device: Where the numbers are drawn.
        """
        several = distributed.is_available() and distributed.is_initialized()
        rank = distributed.get_rank() if several else 0
        digest = hashlib.sha256(f"{self.seed} {rank} {self.count}".encode()).digest()
        self.count += 1
        return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little"))

    def get_extra_state(self) -> Tensor:
        """How often numbers were drawn, for checkpoints."""
        return torch.tensor(self.count)

    def set_extra_state(self, state: Tensor) -> None:
        """Go on from the count of a checkpoint."""
        self.count = int(state)
