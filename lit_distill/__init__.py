"""lit_distill: distillation of every kind on PyTorch Lightning.

The names below are imported when they are first used: ``import lit_distill`` costs nothing, and a loss can be used
where Lightning is not installed.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lit_distill.core.module import DistillModule as DistillModule
    from lit_distill.core.outputs import Outputs as Outputs
    from lit_distill.detection import DetectionDistiller as DetectionDistiller
    from lit_distill.distiller import Distiller as Distiller
    from lit_distill.distiller import FeatureDistiller as FeatureDistiller
    from lit_distill.distiller import LogitDistiller as LogitDistiller
    from lit_distill.distiller import RelationalDistiller as RelationalDistiller
    from lit_distill.errors import InputError as InputError
    from lit_distill.losses import KD as KD
    from lit_distill.losses import CrossEntropy as CrossEntropy
    from lit_distill.losses.base import DistillLoss as DistillLoss
    from lit_distill.losses.base import FeatureLoss as FeatureLoss
    from lit_distill.losses.base import LogitLoss as LogitLoss
    from lit_distill.losses.base import RelationalLoss as RelationalLoss
    from lit_distill.models import restored as restored
    from lit_distill.mutual import MutualDistiller as MutualDistiller
    from lit_distill.segmentation import SegmentationDistiller as SegmentationDistiller
    from lit_distill.store import StoredDistiller as StoredDistiller
    from lit_distill.supervised import Supervised as Supervised

__version__ = "0.1.0"

_HOMES = {
    "CrossEntropy": "losses",
    "DetectionDistiller": "detection",
    "DistillLoss": "losses.base",
    "DistillModule": "core.module",
    "Distiller": "distiller",
    "FeatureDistiller": "distiller",
    "FeatureLoss": "losses.base",
    "InputError": "errors",
    "KD": "losses",
    "LogitDistiller": "distiller",
    "LogitLoss": "losses.base",
    "MutualDistiller": "mutual",
    "Outputs": "core.outputs",
    "RelationalDistiller": "distiller",
    "RelationalLoss": "losses.base",
    "SegmentationDistiller": "segmentation",
    "StoredDistiller": "store",
    "Supervised": "supervised",
    "restored": "models",
}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
