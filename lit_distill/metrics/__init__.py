"""Fidelity to the teacher, as torchmetrics; no Lightning needed."""

from lit_distill.metrics.agreement import TeacherAgreement
from lit_distill.metrics.cka import CKA
from lit_distill.metrics.kl import TeacherKL

__all__ = ["CKA", "TeacherAgreement", "TeacherKL"]
