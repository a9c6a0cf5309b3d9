"""Fidelity to the teacher and average precision, as torchmetrics; no Lightning needed."""

from lit_distill.metrics.agreement import TeacherAgreement
from lit_distill.metrics.average_precision import AveragePrecision
from lit_distill.metrics.churn import Churn
from lit_distill.metrics.cka import CKA
from lit_distill.metrics.kl import TeacherKL
from lit_distill.metrics.ridge_probe import RidgeProbe
from lit_distill.metrics.teacher_stddev import TeacherStddev

__all__ = [
    "CKA",
    "AveragePrecision",
    "Churn",
    "RidgeProbe",
    "TeacherAgreement",
    "TeacherKL",
    "TeacherStddev",
]
