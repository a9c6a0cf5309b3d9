"""Dataset distillation: small synthetic sets that train real networks."""

from lit_distill.dataset.artifact import DistilledDataset
from lit_distill.dataset.augment import SiameseAugmentation
from lit_distill.dataset.distiller import DatasetDistiller
from lit_distill.dataset.evaluation_callback import Evaluation
from lit_distill.dataset.experts import ExpertTraining
from lit_distill.dataset.flat_experts import FlatExperts
from lit_distill.dataset.networks.base import NetworkSampler
from lit_distill.dataset.networks.committee import Committee
from lit_distill.dataset.networks.experts import Experts
from lit_distill.dataset.networks.fresh import Fresh
from lit_distill.dataset.networks.pool import Pool
from lit_distill.dataset.networks.trained import Trained, TrainedOnReal, TrainedOnSynthetic
from lit_distill.dataset.objectives.aligned import DATM
from lit_distill.dataset.objectives.base import Objective
from lit_distill.dataset.objectives.distribution import DistributionMatching
from lit_distill.dataset.objectives.feature import FeatureMatching
from lit_distill.dataset.objectives.gradient import GradientMatching
from lit_distill.dataset.objectives.inversion import CDA, SRe2L
from lit_distill.dataset.objectives.kernel import FRePo
from lit_distill.dataset.objectives.smooth import AST
from lit_distill.dataset.objectives.trajectory import MTT, TESLA
from lit_distill.dataset.objectives.unrolled import DD
from lit_distill.dataset.relabelling import relabel
from lit_distill.dataset.smooth_experts import SmoothExperts
from lit_distill.dataset.soft_views import StoredViews, Views
from lit_distill.dataset.synthetic.averaged_pixels import AveragedPixels
from lit_distill.dataset.synthetic.base import SyntheticSet
from lit_distill.dataset.synthetic.learned_labels import LearnedLabels
from lit_distill.dataset.synthetic.learned_logits import LearnedLogits
from lit_distill.dataset.synthetic.multi_formation import MultiFormation
from lit_distill.dataset.synthetic.patches import Patches
from lit_distill.dataset.synthetic.pixels import Pixels
from lit_distill.dataset.synthetic.representative_pixels import RepresentativePixels
from lit_distill.dataset.synthetic.selected import Selected

__all__ = [
    "AST",
    "CDA",
    "DATM",
    "DD",
    "MTT",
    "TESLA",
    "AveragedPixels",
    "Committee",
    "DatasetDistiller",
    "DistilledDataset",
    "DistributionMatching",
    "Evaluation",
    "ExpertTraining",
    "Experts",
    "FRePo",
    "FeatureMatching",
    "FlatExperts",
    "Fresh",
    "GradientMatching",
    "LearnedLabels",
    "LearnedLogits",
    "MultiFormation",
    "NetworkSampler",
    "Objective",
    "Patches",
    "Pixels",
    "Pool",
    "RepresentativePixels",
    "SRe2L",
    "Selected",
    "SiameseAugmentation",
    "SmoothExperts",
    "StoredViews",
    "SyntheticSet",
    "Trained",
    "TrainedOnReal",
    "TrainedOnSynthetic",
    "Views",
    "relabel",
]
