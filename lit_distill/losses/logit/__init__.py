"""Terms that compare what both networks answer: one paper, one file."""

from lit_distill.losses.logit.bkd import BKD, bkd
from lit_distill.losses.logit.dist import DIST, dist
from lit_distill.losses.logit.divergence import DivergenceKD
from lit_distill.losses.logit.dkd import DKD, dkd
from lit_distill.losses.logit.dtkd import DTKD, dtkd
from lit_distill.losses.logit.kd import KD, kd
from lit_distill.losses.logit.luminet import LumiNet, luminet
from lit_distill.losses.logit.mse import LogitMSE, logit_mse
from lit_distill.losses.logit.nkd import NKD, nkd
from lit_distill.losses.logit.pld import PLD, pld
from lit_distill.losses.logit.rld import RLD, rld
from lit_distill.losses.logit.skd import SKD, skd_direction
from lit_distill.losses.logit.tfkd import TfKDReg, TfKDSelf, tfkd_reg, tfkd_self
from lit_distill.losses.logit.ttm import TTM, WTTM, ttm, wttm
from lit_distill.losses.logit.wkdl import WKDL, class_costs, wkdl
from lit_distill.losses.logit.wsld import WSLD, wsld

__all__ = [
    "BKD",
    "DIST",
    "DKD",
    "DTKD",
    "KD",
    "NKD",
    "PLD",
    "RLD",
    "SKD",
    "TTM",
    "WKDL",
    "WSLD",
    "WTTM",
    "DivergenceKD",
    "LogitMSE",
    "LumiNet",
    "TfKDReg",
    "TfKDSelf",
    "bkd",
    "class_costs",
    "dist",
    "dkd",
    "dtkd",
    "kd",
    "logit_mse",
    "luminet",
    "nkd",
    "pld",
    "rld",
    "skd_direction",
    "tfkd_reg",
    "tfkd_self",
    "ttm",
    "wkdl",
    "wsld",
    "wttm",
]
