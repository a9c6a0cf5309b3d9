"""A student quantised from outside: trained, resumed, tested and exported as such."""

import json

import lightning as L
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lit_distill.callbacks import FakeQuantise, LearnPoints, StudentEMA, StudentFile
from lit_distill.cli import main
from lit_distill.core.strategies import FSDP2Strategy
from lit_distill.data import Digits
from lit_distill.distiller import Distiller
from lit_distill.errors import InputError
from lit_distill.losses import KD, CrossEntropy, FitNet
from lit_distill.models import ConvNet, as_int8, quantised, resnet8, seeded
from lit_distill.quantisation import is_quantised, unquantised

from .fake import FakeDistiller, SaveAfter, batches, same, trainer, weights


def digits(count=64, size=16):
    return Digits(limit=count, batch_size=size, val_fraction=0.25)


def distiller(seed=0, **losses):
    student = seeded(lambda: ConvNet(in_channels=1, width=8, depth=2, norm="batch"), seed)
    teacher = seeded(lambda: ConvNet(in_channels=1, width=8, depth=2, norm="batch"), 9)
    return Distiller(
        student=student,
        teacher=teacher,
        losses=losses or {"ce": CrossEntropy(), "kd": KD()},
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
        input_shape=(1, 8, 8),
    )


CALLBACKS = [
    lambda: FakeQuantise(),
    lambda: FakeQuantise(bits=3, input_bits=4, bucket=16, scaling="linear"),
    lambda: LearnPoints(bits=2, input_bits=8),
]


@pytest.mark.parametrize("make", CALLBACKS)
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, make):
    def run(seed, **kwargs):
        module = FakeDistiller(seed)
        module.student[3].p = 0.0  # random numbers are not the callback's to resume
        trainer(tmp_path, make(), SaveAfter(2), max_epochs=4).fit(module, batches(), batches(1), **kwargs)
        return module

    whole, resumed = run(0), run(5, ckpt_path=tmp_path / "epochs-2.ckpt", weights_only=True)
    assert same(weights(whole.student), weights(resumed.student))
    assert same(whole.validated[-1], resumed.validated[-1])


def test_it_is_the_model_around_the_student(tmp_path):
    """The callback and the function train the same network."""
    outside, inside = FakeDistiller(), FakeDistiller()
    for module in (outside, inside):
        module.student[3].p = 0.0
    trainer(tmp_path, FakeQuantise(bits=3, bucket=4)).fit(outside, batches(), batches(1))
    quantised(inside.student, bits=3, bucket=4)
    trainer(tmp_path).fit(inside, batches(), batches(1))
    assert same(weights(outside.student), weights(inside.student))


def test_points_alone_move(tmp_path):
    module = FakeDistiller()
    before = {name: value.clone() for name, value in module.student.named_parameters()}
    trainer(tmp_path, LearnPoints(bits=2)).fit(module, batches(), batches(1))
    after = dict(module.student.named_parameters())
    for name, value in before.items():
        latent = name.replace("weight", "parametrizations.weight.original")
        assert torch.equal(after[latent] if latent in after else after[name], value)
    start = torch.tensor([0.0, 1.0])
    for layer in (module.student[0], module.student[4]):
        points = layer.parametrizations.weight[0].points.detach()
        assert not torch.isclose(points[[0, -1]], start, atol=1e-6).all()


def test_it_tests_all_three_networks(tmp_path):
    module, data = distiller(), digits(size=64)
    run = trainer(tmp_path, FakeQuantise(bits=2, input_bits=3), max_epochs=1)
    run.fit(module, data)
    (metrics,) = run.test(module, data, verbose=False)
    given = [data.on_after_batch_transfer(batch, 0)[:2] for batch in data.test_dataloader()]
    x, target = (torch.cat(parts) for parts in zip(*given, strict=True))

    def accuracy(network):
        with torch.no_grad():
            return float((network(x).argmax(1) == target).float().mean())

    module.student.eval()
    assert metrics["test/acc"] == pytest.approx(accuracy(module.student))
    assert metrics["test/int8_acc"] == pytest.approx(accuracy(as_int8(module.student)))
    with unquantised(module.student):
        assert metrics["test/float_acc"] == pytest.approx(accuracy(module.student))
    assert metrics["test/int8_acc"] == metrics["test/acc"]


def test_features_are_those_of_the_quantised_student(tmp_path):
    """Taps were set before the student was quantised, and see what it does now."""
    module, data = distiller(ce=CrossEntropy(), hint=FitNet()), digits()
    trainer(tmp_path, FakeQuantise(bits=2), max_epochs=1, limit_train_batches=1).fit(module, data)
    module.student.eval()
    x = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        rounded = module.forward_student(x)
        with unquantised(module.student):
            exact = module.forward_student(x)
    assert rounded.features.keys() == exact.features.keys() != set()
    for path, feature in rounded.features.items():
        assert not torch.equal(feature, exact.features[path])


def test_the_average_is_what_becomes_integers(tmp_path):
    module, data, ema = distiller(), digits(), StudentEMA(decay=0.5)
    run = trainer(tmp_path, FakeQuantise(bits=2), ema, max_epochs=1)
    run.fit(module, data)
    (metrics,) = run.test(module, data, verbose=False)
    assert metrics["test/int8_acc"] == metrics["test/acc"]


def test_a_second_stage_does_not_quantise_again_and_another_student_is_its_own(tmp_path):
    callback, data = FakeQuantise(), digits()
    run = trainer(tmp_path, callback, max_epochs=1, limit_train_batches=1)
    for module in (distiller(), distiller(seed=1)):
        run.fit(module, data)
        run.validate(module, data, verbose=False)
        assert is_quantised(module.student)


class Sharding:
    strategy = FSDP2Strategy()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: FakeQuantise(bits=1), "bits: 1 given; accepted are 2 to 8"),
        (lambda: LearnPoints(bucket=0), "bucket: 0 given; accepted is a number of weights of at least 2"),
        (lambda: FakeQuantise(scaling="log"), "scaling: 'log' given; accepted are absmax and linear"),
        (lambda: FakeQuantise().setup(L.Trainer(logger=False, accelerator="cpu"), L.LightningModule(), "fit"), "callb"),
        (lambda: FakeQuantise().setup(Sharding(), distiller(), "fit"), "trainer.strategy: FakeQuantise cannot scale"),
    ],
)
def test_bad_use(make, says):
    with pytest.raises(InputError) as error:
        make()
    assert str(error.value).startswith(says)
    assert "\n" not in str(error.value)


CONFIG = """
model:
  class_path: Supervised
  init_args:
    student: {class_path: lit_distill.models.MLP, init_args: {input_shape: [1, 8, 8], hidden: [16]}}
    optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.1}}
data: {class_path: Digits}
trainer: {max_epochs: 1, limit_train_batches: 3, limit_val_batches: 2, limit_test_batches: 2}
"""


def test_one_flag_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(CONFIG)
    assert main(["fit", "--config", "run.yaml", "--trainer.callbacks+=FakeQuantise", "--trainer.callbacks.bits=4"]) == 0
    said = capsys.readouterr().out
    assert "as 8-bit integers" in said
    folder = tmp_path / "runs" / "run" / "version_0"
    card = json.loads((folder / "student.json").read_text())
    for results in card["results"].values():
        assert results["int8_acc"] == results["acc"]
    (line,) = (line.removeprefix("Load it: ") for line in said.splitlines() if line.startswith("Load it: "))
    found: dict[str, nn.Module] = {}
    exec(line, found)
    assert is_quantised(found["student"])
    assert main(["export", str(folder)]) == 0
    exported = load_file(folder / "export" / "student.safetensors")
    assert exported["fc.parametrizations.weight.original"].dtype == torch.int8
    assert json.loads((folder / "export" / "student.json").read_text())["weights"] == "int8"
    checkpoint = folder / "checkpoints" / "last.ckpt"
    assert main(["export", str(folder), f"--checkpoint={checkpoint}", "--formats=safetensors", "--output=other"]) == 0
    again = load_file(tmp_path / "other" / "student.safetensors")
    assert same(exported, again)


@pytest.mark.learns
@pytest.mark.parametrize(
    ("make", "least"), [(lambda: FakeQuantise(bits=2, input_bits=None), 0.8), (lambda: LearnPoints(bits=2), 0.5)]
)
def test_learns(tmp_path, make, least):
    """Two bits for each weight: rounding afterwards loses what training with it keeps."""
    data = Digits(batch_size=64)
    module = Distiller(
        student=seeded(lambda: resnet8(num_classes=10, in_channels=1)),
        losses={"ce": CrossEntropy()},
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
    )
    trainer(tmp_path, max_epochs=3).fit(module, data)
    callback = make()
    run = trainer(tmp_path, callback, max_epochs=3)
    run.fit(module, data)
    (metrics,) = run.test(module, data, verbose=False)
    assert metrics["test/int8_acc"] == pytest.approx(metrics["test/acc"], abs=0.01)
    assert metrics["test/acc"] > least


def test_a_student_file_holds_the_ranges(tmp_path):
    module = distiller()
    run = trainer(tmp_path, FakeQuantise(), StudentFile(str(tmp_path / "s.safetensors")), max_epochs=1)
    run.fit(module, digits())
    assert same(load_file(tmp_path / "s.safetensors"), weights(module.student))
    assert {name for name in weights(module.student) if name.endswith("input_quantiser.high")}
