"""Terms that compare what both networks answer: one paper, one file."""

from lit_distill.losses.logit.divergence import DivergenceKD
from lit_distill.losses.logit.kd import KD, kd
from lit_distill.losses.logit.mse import LogitMSE, logit_mse
from lit_distill.losses.logit.rld import RLD, rld

__all__ = [
    "KD",
    "RLD",
    "DivergenceKD",
    "LogitMSE",
    "kd",
    "logit_mse",
    "rld",
]
