"""Terms that compare activations of pairs of layers: one paper, one file."""

from lit_distill.losses.feature.ab import AB, ab
from lit_distill.losses.feature.at import AT, at, attention
from lit_distill.losses.feature.catkd import CATKD, catkd, class_activation_maps
from lit_distill.losses.feature.cwd import CWD, cwd
from lit_distill.losses.feature.fitnet import FitNet, fitnet
from lit_distill.losses.feature.fsp import FSP, flow, fsp
from lit_distill.losses.feature.ft import FT, ft
from lit_distill.losses.feature.hidden_state import HiddenState, hidden_state
from lit_distill.losses.feature.ickd import ICKD, correlations, ickd
from lit_distill.losses.feature.mgd import MGD, keep_mask, mgd
from lit_distill.losses.feature.nst import NST, nst
from lit_distill.losses.feature.ofd import OFD, margins, ofd
from lit_distill.losses.feature.pkd import PKD, pkd
from lit_distill.losses.feature.reviewkd import ReviewKD, hierarchical_context
from lit_distill.losses.feature.simkd import SimKD, simkd
from lit_distill.losses.feature.srd import SRD, srd
from lit_distill.losses.feature.srrl import SRRL, srrl
from lit_distill.losses.feature.unic import UNIC, unic_kept, unic_rows
from lit_distill.losses.feature.vid import VID, vid
from lit_distill.losses.feature.vitkd import ViTKD, masked_tokens, vitkd_generate, vitkd_mimic
from lit_distill.losses.feature.vkd import VkD, vkd
from lit_distill.losses.feature.wkdf import WKDF, gaussian_gaps, wkdf

__all__ = [
    "AB",
    "AT",
    "CATKD",
    "CWD",
    "FSP",
    "FT",
    "ICKD",
    "MGD",
    "NST",
    "OFD",
    "PKD",
    "SRD",
    "SRRL",
    "UNIC",
    "VID",
    "WKDF",
    "FitNet",
    "HiddenState",
    "ReviewKD",
    "SimKD",
    "ViTKD",
    "VkD",
    "ab",
    "at",
    "attention",
    "catkd",
    "class_activation_maps",
    "correlations",
    "cwd",
    "fitnet",
    "flow",
    "fsp",
    "ft",
    "gaussian_gaps",
    "hidden_state",
    "hierarchical_context",
    "ickd",
    "keep_mask",
    "margins",
    "masked_tokens",
    "mgd",
    "nst",
    "ofd",
    "pkd",
    "simkd",
    "srd",
    "srrl",
    "unic_kept",
    "unic_rows",
    "vid",
    "vitkd_generate",
    "vitkd_mimic",
    "vkd",
    "wkdf",
]
