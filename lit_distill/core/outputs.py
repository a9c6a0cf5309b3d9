"""What one network said about one batch."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor


class Outputs(NamedTuple):
    """What one network said about one batch.

    Attributes:
        logits: Scores before the softmax, ``(B, C)`` for classification.
        features: Tapped activations by module path (see :class:`lit_distill.core.taps.Taps`).
        sample_index: Position of each sample in its training set, ``(B,)``, where the data module gives it.
    """

    logits: Tensor
    features: Mapping[str, Tensor] = MappingProxyType({})
    sample_index: Tensor | None = None
