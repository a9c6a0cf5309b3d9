"""Terms that compare relations between the samples of a batch: one paper, one file."""

from lit_distill.losses.relational.cc import CC, cc_adjacent, cc_gaussian
from lit_distill.losses.relational.crd import CRD, crd_nce, crd_scores
from lit_distill.losses.relational.irg import IRG, irg_edge_loss, irg_edges, irg_transformation
from lit_distill.losses.relational.kdsvd import KDSVD, kdsvd_directions, kdsvd_relation
from lit_distill.losses.relational.pkt import PKT, pkt
from lit_distill.losses.relational.rkd import RKD, rkd_angle, rkd_distance
from lit_distill.losses.relational.semckd import SemCKD, semckd_attention
from lit_distill.losses.relational.sp import SP, sp

__all__ = [
    "CC",
    "CRD",
    "IRG",
    "KDSVD",
    "PKT",
    "RKD",
    "SP",
    "SemCKD",
    "cc_adjacent",
    "cc_gaussian",
    "crd_nce",
    "crd_scores",
    "irg_edge_loss",
    "irg_edges",
    "irg_transformation",
    "kdsvd_directions",
    "kdsvd_relation",
    "pkt",
    "rkd_angle",
    "rkd_distance",
    "semckd_attention",
    "sp",
]
