"""A small training with a queue, which tests interrupt and share among processes, and terms that gather."""

import os

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_distill.core import strategies  # noqa: F401 (makes fsdp2 known)
from lit_distill.core.outputs import Outputs
from lit_distill.data import Digits
from lit_distill.distiller import Distiller
from lit_distill.losses import ITRD, TRG, CrossEntropy, DarkRank, QueueKL, TinyCLIP, TokenRelation
from lit_distill.losses.feature.standardiser import Standardiser
from lit_distill.models import ConvNet

SAMPLES, BATCH, EPOCHS, STEPS = 24, 8, 2, 6
CHECKPOINT = "step=4.ckpt"


def network(width):
    return ConvNet(in_channels=1, width=width, depth=2, norm="group")


def module():
    torch.manual_seed(0)
    losses = {"ce": CrossEntropy(), "queue": QueueKL(size=16, weight=0.5), "tokens": TokenRelation(weight=0.5)}
    return Distiller(
        student=network(8),
        teacher=network(16),
        losses=losses,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
        input_shape=(1, 8, 8),
    )


def train(folder, strategy="auto", resume=None):
    """Weights and queue after all steps, perhaps resumed from a checkpoint; writes one in ``folder``."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    model = module()
    run = L.Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy=strategy,
        max_epochs=EPOCHS,
        logger=False,
        callbacks=[ModelCheckpoint(folder, filename="{step}", every_n_train_steps=4, save_top_k=-1)],
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        default_root_dir=folder,
    )
    run.fit(model, Digits(limit=SAMPLES, batch_size=BATCH // ranks), ckpt_path=resume)
    assert run.global_step == STEPS
    weights = {
        name: (p.full_tensor() if hasattr(p, "full_tensor") else p).detach().clone()
        for name, p in model.named_parameters()
        if p.requires_grad
    }
    return {"weights": weights, "queue": model.losses["queue"].queue.get_extra_state()}


def parts_of_a_batch(folder):
    """Each rank with a part of a batch: values, gradients and statistics must be those of one process with all."""
    torch.manual_seed(1)
    maps = [torch.randn(8, width, 2, 2).double() for width in (4, 6)]
    batches = [torch.randn(8, 4, 5).double() * (step + 1) + 100 for step in range(3)]
    alone, shared = Standardiser(5), Standardiser(5)
    expected = [alone(x, 0.1) for x in batches]

    dist.init_process_group("gloo")
    own = slice(0, 3) if dist.get_rank() == 0 else slice(3, 8)
    for x, whole in zip(batches, expected, strict=True):
        torch.testing.assert_close(shared(x[own], 0.1), whole[own])
    torch.testing.assert_close(shared.get_extra_state(), alone.get_extra_state())
    _same(TinyCLIP(layers={"a": "a", "b": "b"}), maps, own)
    _same(DarkRank(layers={"a": "a"}), maps, own)
    information = ITRD(layers={"a": "a"})
    information.build(*_said(*maps))
    _same(information.double(), maps, own)
    graph = TRG(layers={"a": "a"}, tokens=4, neighbours=3, width=0.5)
    graph.build(*_said(*maps))
    half = slice(0, 4) if dist.get_rank() == 0 else slice(4, 8)  # the mean over images is that of each rank
    _same(graph.double(), maps, half)
    dist.destroy_process_group()


def _said(student, teacher):
    empty = torch.zeros(len(student), 3)
    return Outputs(empty, {"a": student, "b": student.flip(1)}), Outputs(empty, {"a": teacher, "b": teacher.flip(1)})


def _same(loss, maps, own):
    student, teacher = maps
    student = student.clone().requires_grad_()
    alone = loss(*_said(student, teacher), None)
    (expected,) = torch.autograd.grad(alone, student)
    loss.gather = True
    part = student.detach()[own].requires_grad_()
    value = loss(*_said(part, teacher[own]), None)
    (gradient,) = torch.autograd.grad(value, part)
    total = value.detach().clone()
    dist.all_reduce(total)
    torch.testing.assert_close(total / 2, alone.detach())
    torch.testing.assert_close(gradient, 2 * expected[own])  # which ranks average
