"""The terms of an objective and the functions behind them: plain torch, for any training loop."""

from lit_distill.losses.base import DistillLoss, FeatureLoss, LogitLoss, RelationalLoss
from lit_distill.losses.cross_entropy import CrossEntropy
from lit_distill.losses.divergences import (
    JSD,
    TVD,
    AdaptiveKL,
    AlphaBeta,
    Divergence,
    ForwardKL,
    MixedKL,
    NormalisedJSD,
    ReverseKL,
    SkewForwardKL,
    SkewReverseKL,
)
from lit_distill.losses.feature import FitNet
from lit_distill.losses.logit import KD, RLD, DivergenceKD, LogitMSE
from lit_distill.losses.relational import RKD

__all__ = [
    "JSD",
    "KD",
    "RKD",
    "RLD",
    "TVD",
    "AdaptiveKL",
    "AlphaBeta",
    "CrossEntropy",
    "DistillLoss",
    "Divergence",
    "DivergenceKD",
    "FeatureLoss",
    "FitNet",
    "ForwardKL",
    "LogitLoss",
    "LogitMSE",
    "MixedKL",
    "NormalisedJSD",
    "RelationalLoss",
    "ReverseKL",
    "SkewForwardKL",
    "SkewReverseKL",
]
