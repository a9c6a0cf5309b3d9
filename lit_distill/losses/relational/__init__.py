"""Terms that compare relations between the samples of a batch: one paper, one file."""

from lit_distill.losses.relational.cc import CC, cc_adjacent, cc_gaussian
from lit_distill.losses.relational.crd import CRD, crd_nce, crd_scores
from lit_distill.losses.relational.pkt import PKT, pkt
from lit_distill.losses.relational.rkd import RKD, rkd_angle, rkd_distance
from lit_distill.losses.relational.sp import SP, sp

__all__ = [
    "CC",
    "CRD",
    "PKT",
    "RKD",
    "SP",
    "cc_adjacent",
    "cc_gaussian",
    "crd_nce",
    "crd_scores",
    "pkt",
    "rkd_angle",
    "rkd_distance",
    "sp",
]
