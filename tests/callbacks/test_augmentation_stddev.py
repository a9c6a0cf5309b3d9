import lightning as L
import pytest
import torch
from torch import nn

from lit_distill.callbacks import AugmentationStddev
from lit_distill.data import CutMix, WithMixtures
from lit_distill.distiller import Distiller
from lit_distill.errors import InputError
from lit_distill.losses import KD, OnViews

from .fake import same, trainer, weights
from .scoring import digits, network, supervised


class Seen(L.Callback):
    """Keeps all training images and what was logged."""

    def __init__(self):
        self.images, self.values = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.images.append(batch[0])

    def on_train_epoch_end(self, trainer, pl_module):
        self.values.append(trainer.callback_metrics.get("train/teacher_stddev"))


def distiller():
    torch.manual_seed(1)
    return Distiller(
        student=network(dropout=0.5),
        teacher=nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
        losses={"kd": OnViews(KD(), 3)},
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        input_shape=(1, 8, 8),
    )


def data():
    return digits(mix=WithMixtures(CutMix(), 2), batch_size=20)


def fit(folder, *callbacks, epochs=3, ckpt_path=None, **kwargs):
    module = distiller()
    torch.manual_seed(2)
    run = trainer(folder, *callbacks, max_epochs=epochs, num_sanity_val_steps=0, **kwargs)
    run.fit(module, datamodule=data(), ckpt_path=ckpt_path)
    return module


def naive(module, images, group):
    with torch.no_grad():
        p = module.teacher(torch.cat(images)).softmax(1)
    return p[: len(p) // group * group].view(-1, group, 10).mean(1).std(0).mean()


def test_is_the_value_over_all_that_the_teacher_was_asked(tmp_path):
    seen = Seen()
    module = fit(tmp_path, AugmentationStddev(group=200), seen)
    assert len(torch.cat(seen.images)) == 3 * 300
    assert seen.values[0] is None  # one whole group
    for epoch in (2, 3):
        torch.testing.assert_close(seen.values[epoch - 1], naive(module, seen.images[: 5 * epoch], 200))


def test_training_does_not_change_by_a_bit(tmp_path):
    assert same(weights(fit(tmp_path, AugmentationStddev(200))), weights(fit(tmp_path)))


@pytest.mark.parametrize("stop", [3, 5, 7])
def test_resumed_in_the_middle_is_uninterrupted(tmp_path, stop):
    class Save(L.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == stop:
                trainer.save_checkpoint(tmp_path / "half.ckpt")

    whole, resumed = Seen(), Seen()
    fit(tmp_path, AugmentationStddev(140), whole, Save())
    fit(tmp_path, AugmentationStddev(140), resumed, ckpt_path=tmp_path / "half.ckpt")
    assert torch.equal(resumed.values[-1], whole.values[-1])


def test_needs_a_teacher(tmp_path):
    with pytest.raises(InputError, match=r"^callbacks: AugmentationStddev asks the teacher; this Supervised has none"):
        trainer(tmp_path, AugmentationStddev()).fit(supervised(), datamodule=digits())
    with pytest.raises(InputError, match=r"^group: 0 given"):
        AugmentationStddev(0)
