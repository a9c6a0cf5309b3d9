"""Terms that compare relations between the samples of a batch: one paper, one file."""

from lit_distill.losses.relational.cc import CC, cc_adjacent, cc_gaussian
from lit_distill.losses.relational.crd import CRD, crd_nce, crd_scores
from lit_distill.losses.relational.darkrank import DarkRank, darkrank
from lit_distill.losses.relational.irg import IRG, irg_edge_loss, irg_edges, irg_transformation
from lit_distill.losses.relational.itrd import ITRD, itrd_correlation, itrd_mutual
from lit_distill.losses.relational.kdsvd import KDSVD, kdsvd_directions, kdsvd_relation
from lit_distill.losses.relational.pkt import PKT, pkt
from lit_distill.losses.relational.queue_kl import QueueKL, queue_kl
from lit_distill.losses.relational.rkd import RKD, rkd_angle, rkd_distance
from lit_distill.losses.relational.semckd import SemCKD, semckd_attention
from lit_distill.losses.relational.sp import SP, sp
from lit_distill.losses.relational.tinyclip import TinyCLIP, tinyclip
from lit_distill.losses.relational.token_relation import TokenRelation, token_relation
from lit_distill.losses.relational.trg import TRG, trg_context, trg_global, trg_graph, trg_local

__all__ = [
    "CC",
    "CRD",
    "IRG",
    "ITRD",
    "KDSVD",
    "PKT",
    "RKD",
    "SP",
    "TRG",
    "DarkRank",
    "QueueKL",
    "SemCKD",
    "TinyCLIP",
    "TokenRelation",
    "cc_adjacent",
    "cc_gaussian",
    "crd_nce",
    "crd_scores",
    "darkrank",
    "irg_edge_loss",
    "irg_edges",
    "irg_transformation",
    "itrd_correlation",
    "itrd_mutual",
    "kdsvd_directions",
    "kdsvd_relation",
    "pkt",
    "queue_kl",
    "rkd_angle",
    "rkd_distance",
    "semckd_attention",
    "sp",
    "tinyclip",
    "token_relation",
    "trg_context",
    "trg_global",
    "trg_graph",
    "trg_local",
]
