"""What watches a run and changes it from outside, as Lightning callbacks."""

from lit_distill.callbacks.cka import LayerCKA
from lit_distill.callbacks.conflict import GradientConflict
from lit_distill.callbacks.curves import Curves
from lit_distill.callbacks.ema import StudentEMA
from lit_distill.callbacks.images import ExampleImages
from lit_distill.callbacks.performance import ChannelsLast, Compile
from lit_distill.callbacks.progress import DistillProgressBar
from lit_distill.callbacks.schedule import Schedule, WarmUp
from lit_distill.callbacks.student_file import StudentFile

__all__ = [
    "ChannelsLast",
    "Compile",
    "Curves",
    "DistillProgressBar",
    "ExampleImages",
    "GradientConflict",
    "LayerCKA",
    "Schedule",
    "StudentEMA",
    "StudentFile",
    "WarmUp",
]
