import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill.callbacks import ChannelsLast, Compile
from lit_distill.distiller import Distiller
from lit_distill.losses import KD, FitNet
from lit_distill.models import ConvNet


def fitted(callbacks):
    L.seed_everything(0)
    student, teacher = ConvNet(in_channels=3, num_classes=4, width=4), ConvNet(in_channels=3, num_classes=4, width=6)
    path = next(name for name, child in student.named_modules() if isinstance(child, nn.Conv2d))
    module = Distiller(
        student=student,
        teacher=teacher,
        losses={"kd": KD(), "hint": FitNet(layers={path: path})},
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        input_shape=(3, 8, 8),
    )
    data = TensorDataset(torch.randn(32, 3, 8, 8), torch.randint(0, 4, (32,)))
    trainer = L.Trainer(
        accelerator="cpu", max_steps=3, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        limit_val_batches=0, callbacks=callbacks,
    )  # fmt: skip
    trainer.fit(module, DataLoader(data, 8), DataLoader(data, 8))
    return module


def assert_same_student(one, other):
    for (name, a), (_, b) in zip(one.student.state_dict().items(), other.student.state_dict().items(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")


def test_channels_last_changes_the_format_and_not_the_result():
    plain, converted = fitted([]), fitted([ChannelsLast()])
    weights = [m.weight for m in converted.modules() if isinstance(m, nn.Conv2d) and m.weight.shape[1] > 1]
    assert weights
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)
    assert_same_student(plain, converted)


@pytest.mark.long
def test_compiled_networks_learn_the_same_with_their_taps():
    plain, compiled = fitted([]), fitted([Compile()])
    assert compiled.student._compiled_call_impl is not None
    assert compiled.teacher.module._compiled_call_impl is not None
    assert_same_student(plain, compiled)
