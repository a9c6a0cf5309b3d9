"""A student learns its teacher's task from outputs that say nothing about it, if it began as the teacher did."""

import lightning as L
import pytest
import torch

from lit_distill.data import Digits, NoiseImages
from lit_distill.distiller import Distiller
from lit_distill.losses import KD, OnLayers
from lit_distill.models import MLP, AuxiliaryLogits, seeded
from lit_distill.supervised import Supervised


def network(seed):
    return AuxiliaryLogits(seeded(lambda: MLP(num_classes=20, hidden=(256, 256)), seed), classes=10)


def fit(module, data, epochs):
    run = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        max_epochs=epochs,
    )
    run.fit(module, datamodule=data)
    return run.test(module, datamodule=data, verbose=False)[0]["test/acc"]


@pytest.mark.learns
def test_only_a_student_of_the_teachers_initial_weights_learns_to_read_digits():
    def adam(parameters):
        return torch.optim.Adam(parameters, lr=1e-3)

    teacher = network(seed=0)
    head = teacher.model.fc.weight[10:].clone()
    assert fit(Supervised(student=teacher, optimizer=adam), Digits(), epochs=3) > 0.9
    assert torch.equal(teacher.model.fc.weight[10:], head)  # no label moved the auxiliary logits

    def distilled(seed):
        losses = {"auxiliary": OnLayers(KD(temperature=1.0), layers={"auxiliary": "auxiliary"})}
        student = network(seed)
        module = Distiller(student=student, teacher=teacher, losses=losses, optimizer=adam)
        accuracy = fit(module, NoiseImages(Digits(), samples=4000), epochs=6)
        assert torch.equal(student.model.fc.weight[:10], network(seed).model.fc.weight[:10])
        return accuracy

    other = distilled(seed=1)
    assert other < 0.25  # about chance
    assert distilled(seed=0) > other + 0.3
