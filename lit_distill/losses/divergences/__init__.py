"""Divergences over rows of logits: one core for image classes, pixels and tokens.

Every function maps student and teacher logits ``(..., C)`` to one value a row ``(...)``, 0 where both
distributions are equal. None multiplies by the square of the temperature: that belongs to who mixes terms.
"""

from lit_distill.losses.divergences.adaptive_kl import AdaptiveKL, adaptive_kl
from lit_distill.losses.divergences.alpha_beta import AlphaBeta, alpha_beta
from lit_distill.losses.divergences.base import Divergence
from lit_distill.losses.divergences.jsd import JSD, NormalisedJSD, jsd, normalised_jsd
from lit_distill.losses.divergences.kl import ForwardKL, MixedKL, ReverseKL, forward_kl, mixed_kl, reverse_kl
from lit_distill.losses.divergences.rows import reduce_rows
from lit_distill.losses.divergences.skew import (
    SkewForwardKL,
    SkewReverseKL,
    skew_forward_kl,
    skew_reverse_kl,
)
from lit_distill.losses.divergences.tvd import TVD, tvd

__all__ = [
    "JSD",
    "TVD",
    "AdaptiveKL",
    "AlphaBeta",
    "Divergence",
    "ForwardKL",
    "MixedKL",
    "NormalisedJSD",
    "ReverseKL",
    "SkewForwardKL",
    "SkewReverseKL",
    "adaptive_kl",
    "alpha_beta",
    "forward_kl",
    "jsd",
    "mixed_kl",
    "normalised_jsd",
    "reduce_rows",
    "reverse_kl",
    "skew_forward_kl",
    "skew_reverse_kl",
    "tvd",
]
