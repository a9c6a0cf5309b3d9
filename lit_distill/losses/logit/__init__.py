"""Terms that compare what both networks answer: one paper, one file."""

from lit_distill.losses.logit.bkd import BKD, bkd
from lit_distill.losses.logit.byot import BYOT, byot, byot_hint
from lit_distill.losses.logit.churn import AnchorRCP, ChurnReduction, anchor_rcp, churn_reduction
from lit_distill.losses.logit.consistency import ProbabilityMSE, probability_mse
from lit_distill.losses.logit.crld import CRLD, crld
from lit_distill.losses.logit.deit import DeiTHard, DeiTSoft, deit_hard, deit_soft
from lit_distill.losses.logit.dhkd import DHKD, aligned_gradients, dhkd
from lit_distill.losses.logit.dist import DIST, dist
from lit_distill.losses.logit.divergence import DivergenceKD
from lit_distill.losses.logit.dkd import DKD, dkd
from lit_distill.losses.logit.dtkd import DTKD, dtkd
from lit_distill.losses.logit.ferkd import FerKD, calibrated, ferkd
from lit_distill.losses.logit.fkd import FKD, fkd
from lit_distill.losses.logit.hierarchical import Hierarchical, hierarchical
from lit_distill.losses.logit.kd import KD, kd
from lit_distill.losses.logit.lelp import LELP, lelp, subclass_projections
from lit_distill.losses.logit.luminet import LumiNet, luminet
from lit_distill.losses.logit.meal_v2 import MEALV2, meal_v2
from lit_distill.losses.logit.mlld import MLLD, mlld
from lit_distill.losses.logit.mse import LogitMSE, logit_mse
from lit_distill.losses.logit.nkd import NKD, nkd
from lit_distill.losses.logit.ofa import OFA, ofa
from lit_distill.losses.logit.pld import PLD, pld
from lit_distill.losses.logit.rld import RLD, rld
from lit_distill.losses.logit.sdd import SDD, cell_logits, sdd
from lit_distill.losses.logit.skd import SKD, skd_direction
from lit_distill.losses.logit.ssld import SSLD, ssld
from lit_distill.losses.logit.tfkd import TfKDReg, TfKDSelf, tfkd_reg, tfkd_self
from lit_distill.losses.logit.ttm import TTM, WTTM, ttm, wttm
from lit_distill.losses.logit.uskd import USKD, uskd
from lit_distill.losses.logit.wkdl import WKDL, class_costs, wkdl
from lit_distill.losses.logit.wsld import WSLD, wsld

__all__ = [
    "BKD",
    "BYOT",
    "CRLD",
    "DHKD",
    "DIST",
    "DKD",
    "DTKD",
    "FKD",
    "KD",
    "LELP",
    "MEALV2",
    "MLLD",
    "NKD",
    "OFA",
    "PLD",
    "RLD",
    "SDD",
    "SKD",
    "SSLD",
    "TTM",
    "USKD",
    "WKDL",
    "WSLD",
    "WTTM",
    "AnchorRCP",
    "ChurnReduction",
    "DeiTHard",
    "DeiTSoft",
    "DivergenceKD",
    "FerKD",
    "Hierarchical",
    "LogitMSE",
    "LumiNet",
    "ProbabilityMSE",
    "TfKDReg",
    "TfKDSelf",
    "aligned_gradients",
    "anchor_rcp",
    "bkd",
    "byot",
    "byot_hint",
    "calibrated",
    "cell_logits",
    "churn_reduction",
    "class_costs",
    "crld",
    "deit_hard",
    "deit_soft",
    "dhkd",
    "dist",
    "dkd",
    "dtkd",
    "ferkd",
    "fkd",
    "hierarchical",
    "kd",
    "lelp",
    "logit_mse",
    "luminet",
    "meal_v2",
    "mlld",
    "nkd",
    "ofa",
    "pld",
    "probability_mse",
    "rld",
    "sdd",
    "skd_direction",
    "ssld",
    "subclass_projections",
    "tfkd_reg",
    "tfkd_self",
    "ttm",
    "uskd",
    "wkdl",
    "wsld",
    "wttm",
]
