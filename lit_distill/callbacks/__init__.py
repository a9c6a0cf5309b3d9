"""What watches a run and changes it from outside, as Lightning callbacks."""

from lit_distill.callbacks.augmentation_stddev import AugmentationStddev
from lit_distill.callbacks.churn import ChurnReport
from lit_distill.callbacks.cka import LayerCKA
from lit_distill.callbacks.conflict import GradientConflict
from lit_distill.callbacks.curves import Curves
from lit_distill.callbacks.el2n import EL2N
from lit_distill.callbacks.ema import StudentEMA
from lit_distill.callbacks.exits import ExitAccuracy
from lit_distill.callbacks.forgetting import Forgetting
from lit_distill.callbacks.images import ExampleImages
from lit_distill.callbacks.momentum_teacher import MomentumTeacher
from lit_distill.callbacks.performance import ChannelsLast, Compile
from lit_distill.callbacks.predicted import PredictedImages
from lit_distill.callbacks.probe import LinearProbe
from lit_distill.callbacks.progress import DistillProgressBar
from lit_distill.callbacks.quantise import FakeQuantise, LearnPoints
from lit_distill.callbacks.schedule import Schedule, WarmUp
from lit_distill.callbacks.student_file import StudentFile

__all__ = [
    "EL2N",
    "AugmentationStddev",
    "ChannelsLast",
    "ChurnReport",
    "Compile",
    "Curves",
    "DistillProgressBar",
    "ExampleImages",
    "ExitAccuracy",
    "FakeQuantise",
    "Forgetting",
    "GradientConflict",
    "LayerCKA",
    "LearnPoints",
    "LinearProbe",
    "MomentumTeacher",
    "PredictedImages",
    "Schedule",
    "StudentEMA",
    "StudentFile",
    "WarmUp",
]
