"""Terms that compare what both networks answer: one paper, one file."""

from lit_distill.losses.logit.divergence import DivergenceKD
from lit_distill.losses.logit.kd import KD, kd
from lit_distill.losses.logit.mse import LogitMSE, logit_mse

__all__ = ["KD", "DivergenceKD", "LogitMSE", "kd", "logit_mse"]
