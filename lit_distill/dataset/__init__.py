"""Dataset distillation: small synthetic sets that train real networks."""

from lit_distill.dataset.augment import SiameseAugmentation
from lit_distill.dataset.distiller import DatasetDistiller
from lit_distill.dataset.networks.base import NetworkSampler
from lit_distill.dataset.networks.fresh import Fresh
from lit_distill.dataset.objectives.base import Objective
from lit_distill.dataset.objectives.distribution import DistributionMatching
from lit_distill.dataset.synthetic.base import SyntheticSet
from lit_distill.dataset.synthetic.pixels import Pixels

__all__ = [
    "DatasetDistiller",
    "DistributionMatching",
    "Fresh",
    "NetworkSampler",
    "Objective",
    "Pixels",
    "SiameseAugmentation",
    "SyntheticSet",
]
