"""Modifiers as the tests use them."""

import torch
from torch import nn

from lit_distill.core.outputs import Outputs
from lit_distill.losses import (
    CTKD,
    DTS,
    KD,
    ConfidenceMask,
    CorrectnessMask,
    EntropyPick,
    NoisyTeacher,
    OnViews,
    PairedViews,
    Standardised,
    TopK,
)

CLASSES = 7


def dts(loss, progress=0.8, **kwargs):
    modifier = DTS(loss, **kwargs)
    modifier.progress = progress
    return modifier


# One of each kind, around a term. The thresholds keep some samples of `both()` and not others.
KINDS = {
    "standardised": Standardised,
    "ctkd": CTKD,
    "dts": dts,
    "bucket": lambda loss: TopK(loss, k=3),
    "renormalise_both": lambda loss: TopK(loss, k=3, tail="renormalise_both"),
    "renormalise_teacher": lambda loss: TopK(loss, k=3, tail="renormalise_teacher"),
    "confident": lambda loss: ConfidenceMask(loss, threshold=0.6),
    "correct": CorrectnessMask,
    "noisy": lambda loss: NoisyTeacher(loss, probability=0.9),
    "added": lambda loss: NoisyTeacher(loss, probability=0.9, noise="additive"),
    "strong_from_weak": PairedViews,
    "crossed": lambda loss: PairedViews(loss, pairs="crossed"),
    "picked": EntropyPick,
    "first": OnViews,
    "others": lambda loss: OnViews(loss, which="others"),
}


def both(batch=8, classes=CLASSES, dtype=torch.float64):
    """Logits of student and teacher, and labels of which the teacher gets about half."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = 2 * torch.randn(2, batch, classes, generator=generator, dtype=torch.float64)
    wrong = torch.arange(batch) % 2
    return student.to(dtype).requires_grad_(), teacher.to(dtype), (teacher.argmax(-1) + wrong) % classes


def call(loss, student, teacher, target):
    return loss(Outputs(student), Outputs(teacher), target)


def value_and_gradient(loss, student, teacher, target):
    value = call(loss, student, teacher, target)
    return value.detach(), torch.autograd.grad(value, student)[0]


def met(loss, classes=CLASSES):
    """The term, after it met a student and a teacher."""
    torch.manual_seed(0)
    networks = [nn.Linear(5, classes) for _ in range(2)]
    loss.attach(*networks)
    loss.build(*(Outputs(network(torch.zeros(2, 5))) for network in networks))
    return loss


def kd(temperature=2.0):
    return KD(temperature=temperature)
