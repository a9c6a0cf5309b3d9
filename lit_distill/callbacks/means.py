"""What was logged at the steps of an epoch, as means over it."""

import lightning as L
from torch import Tensor


class EpochMeans:
    """Averages over the steps of an epoch what a module logs at each; the last step alone says little.

    ``trainer.callback_metrics`` keeps what was logged long ago beside what is new, and tells the two apart only by
    identity: every value that is logged anew is another tensor.
    """

    def __init__(self) -> None:
        self._old: dict[str, Tensor] = {}
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def start(self, trainer: L.Trainer) -> None:
        """Begin an epoch.

        Args:
            trainer: The trainer, before the first step.
        """
        self._old = dict(trainer.callback_metrics)
        self._sums, self._counts = {}, {}

    def add(self, trainer: L.Trainer) -> None:
        """Add what the last step logged.

        Args:
            trainer: The trainer, after a step.
        """
        for name, value in trainer.callback_metrics.items():
            if value is not self._old.get(name):
                self._sums[name] = self._sums[name] + value if name in self._sums else value
                self._counts[name] = self._counts.get(name, 0) + 1

    def means(self) -> dict[str, Tensor]:
        """The mean of each name that any step of this epoch logged."""
        return {name: total / self._counts[name] for name, total in self._sums.items()}
