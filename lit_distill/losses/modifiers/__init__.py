"""Modifiers: each stands around any term on logits, another modifier included, and changes what it is told."""

from lit_distill.losses.modifiers.base import Modifier
from lit_distill.losses.modifiers.confidence_mask import ConfidenceMask, confidence
from lit_distill.losses.modifiers.correctness_mask import CorrectnessMask
from lit_distill.losses.modifiers.ctkd import CTKD, adversarial_temperature
from lit_distill.losses.modifiers.dts import DTS, dynamic_temperature, loss_gap
from lit_distill.losses.modifiers.entropy_pick import EntropyPick, entropy
from lit_distill.losses.modifiers.mask import Mask
from lit_distill.losses.modifiers.noisy_teacher import NoisyTeacher, noisy
from lit_distill.losses.modifiers.on_layers import OnLayers
from lit_distill.losses.modifiers.on_views import OnViews
from lit_distill.losses.modifiers.paired_views import PairedViews
from lit_distill.losses.modifiers.standardised import Standardised, standardised
from lit_distill.losses.modifiers.temperature import TemperatureModifier
from lit_distill.losses.modifiers.top_k import TopK, top_k

__all__ = [
    "CTKD",
    "DTS",
    "ConfidenceMask",
    "CorrectnessMask",
    "EntropyPick",
    "Mask",
    "Modifier",
    "NoisyTeacher",
    "OnLayers",
    "OnViews",
    "PairedViews",
    "Standardised",
    "TemperatureModifier",
    "TopK",
    "adversarial_temperature",
    "confidence",
    "dynamic_temperature",
    "entropy",
    "loss_gap",
    "noisy",
    "standardised",
    "top_k",
]
