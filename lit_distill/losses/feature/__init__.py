"""Terms that compare activations of pairs of layers: one paper, one file."""

from lit_distill.losses.feature.ab import AB, ab
from lit_distill.losses.feature.at import AT, at, attention
from lit_distill.losses.feature.fitnet import FitNet, fitnet
from lit_distill.losses.feature.fsp import FSP, flow, fsp
from lit_distill.losses.feature.ft import FT, ft
from lit_distill.losses.feature.nst import NST, nst
from lit_distill.losses.feature.ofd import OFD, margins, ofd
from lit_distill.losses.feature.reviewkd import ReviewKD, hierarchical_context
from lit_distill.losses.feature.simkd import SimKD, simkd
from lit_distill.losses.feature.srrl import SRRL, srrl
from lit_distill.losses.feature.vid import VID, vid

__all__ = [
    "AB",
    "AT",
    "FSP",
    "FT",
    "NST",
    "OFD",
    "SRRL",
    "VID",
    "FitNet",
    "ReviewKD",
    "SimKD",
    "ab",
    "at",
    "attention",
    "fitnet",
    "flow",
    "fsp",
    "ft",
    "hierarchical_context",
    "margins",
    "nst",
    "ofd",
    "simkd",
    "srrl",
    "vid",
]
