import pytest
import torch
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from lit_distill.callbacks import LinearProbe, StudentEMA
from lit_distill.data import Digits
from lit_distill.distiller import Distiller
from lit_distill.errors import InputError
from lit_distill.losses import KD
from lit_distill.models import ConvNet, interpolated, seeded

from .fake import FakeDistiller, batches, same, trainer, weights


def network():
    return ConvNet(in_channels=1, num_classes=20, width=4, depth=2)


def module(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.05)):
    return Distiller(
        student=interpolated(network, alpha=0.2),
        teacher=seeded(network),
        losses={"kd": KD(temperature=1.0)},
        optimizer=optimizer,
        input_shape=(1, 8, 8),
    )


def data(**kwargs):
    return Digits(limit=200, batch_size=64, **kwargs)


def accuracy(of, layer, part, penalty=1e-3):
    """The same, by scikit-learn."""
    digits = data()
    digits.setup()
    loaders = {"train": digits.train_dataloader, "val": digits.val_dataloader, "test": digits.test_dataloader}
    said = []
    for name in ("train", part):
        pairs = [digits.on_after_batch_transfer(batch) for batch in loaders[name]()]
        x, target = (torch.cat(column) for column in zip(*pairs, strict=True))
        seen = []
        hook = of.get_submodule(layer).register_forward_hook(lambda *args, seen=seen: seen.append(args[2]))
        with torch.no_grad():
            of.eval()(x)
        hook.remove()
        features = seen[0].mean((2, 3)) if seen[0].ndim == 4 else seen[0]
        said.append((features.double(), target))
    (features, target), (others, answers) = said
    probe = make_pipeline(StandardScaler(), RidgeClassifier(alpha=penalty * len(features)))
    return probe.fit(features, target).score(others, answers)


def test_logs_what_a_linear_classifier_finds(tmp_path):
    distiller = module()
    probes = [LinearProbe(), LinearProbe(network="teacher"), LinearProbe("blocks.0", penalty=0.1, name="early")]
    run = trainer(tmp_path, *probes)
    run.fit(distiller, datamodule=data(augment=True))
    student, teacher = distiller.student, distiller.teacher.module
    expected = {
        "val/probe": accuracy(student, "flatten", "val"),
        "val/probe_teacher": accuracy(teacher, "flatten", "val"),
        "val/early": accuracy(student, "blocks.0", "val", 0.1),
    }
    assert {name: run.callback_metrics[name].item() for name in expected} == pytest.approx(expected)
    assert len(set(expected.values())) > 1
    (tested,) = run.test(distiller, datamodule=data(), verbose=False)
    assert tested["test/probe"] == pytest.approx(accuracy(student, "flatten", "test"))
    assert tested["test/probe_teacher"] == pytest.approx(accuracy(teacher, "flatten", "test"))


def test_is_of_the_average_where_that_is_validated(tmp_path):
    distiller, ema = module(), StudentEMA(decay=0.99, warmup=False)
    for callbacks in ([LinearProbe(), ema], [ema, LinearProbe()]):
        run = trainer(tmp_path, *callbacks, max_epochs=1)
        run.fit(distiller, datamodule=data())
        with ema.averaged(distiller.student):
            assert run.callback_metrics["val/probe"].item() == pytest.approx(
                accuracy(distiller.student, "flatten", "val")
            )


def test_training_goes_on_as_without_it(tmp_path):
    class Shuffled(Digits):
        """A loader that draws from the global generator, as those of other libraries do."""

        def train_dataloader(self):
            torch.rand(1)
            return super().train_dataloader()

    ends = []
    for callbacks in ([LinearProbe()], []):
        distiller = module()
        distiller.student.flatten = nn.Sequential(distiller.student.flatten, nn.Dropout(0.5))
        torch.manual_seed(0)
        trainer(tmp_path, *callbacks, num_sanity_val_steps=0).fit(distiller, datamodule=Shuffled(limit=100))
        ends.append(weights(distiller.student))
    assert same(*ends)


def test_sees_no_more_batches_than_training(tmp_path):
    class Counted(LinearProbe):
        seen = 0

        def _features(self, trainer, pl_module, x):
            self.seen += len(x)
            return super()._features(trainer, pl_module, x)

    probe = Counted()
    trainer(tmp_path, probe, limit_train_batches=2, limit_val_batches=1, max_epochs=1).fit(module(), datamodule=data())
    assert probe.seen == 3 * 64
    probe = Counted()
    trainer(tmp_path, probe, limit_train_batches=0.5, limit_val_batches=1, max_epochs=1).fit(
        module(), datamodule=data()
    )
    assert probe.seen == 3 * 64


def test_bad_input(tmp_path):
    with pytest.raises(InputError, match="network: 'both' given to LinearProbe"):
        LinearProbe(network="both")
    with pytest.raises(InputError, match="penalty: -1 given"):
        LinearProbe(penalty=-1)
    with pytest.raises(InputError, match="LinearProbe learns from the training set of a data module"):
        trainer(tmp_path, LinearProbe("0")).fit(FakeDistiller(), batches(), batches(1))
    distiller = module()
    with pytest.raises(InputError, match="the student ConvNet has no submodule 'nowhere'"):
        trainer(tmp_path, LinearProbe("nowhere")).fit(distiller, datamodule=data())
    distiller.student = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(InputError, match="does not know where the features of a Sequential are"):
        trainer(tmp_path, LinearProbe()).fit(distiller, datamodule=data())
    distiller.teacher = None
    with pytest.raises(InputError, match="shall probe the teacher, and Distiller has none"):
        trainer(tmp_path, LinearProbe(network="teacher")).fit(distiller, datamodule=data())
