import math

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from lit_distill.callbacks import MomentumTeacher, Schedule
from lit_distill.core.frozen import Frozen
from lit_distill.data import Digits
from lit_distill.distiller import Distiller
from lit_distill.errors import InputError
from lit_distill.losses import CrossEntropy, PairedViews, ProbabilityMSE
from lit_distill.models import MLP

from .fake import FakeDistiller, SaveAfter, Student, batches, same, trainer, weights


class SelfTaught(FakeDistiller):
    """A student, a teacher of its architecture, and what the teacher was in every step and validation."""

    def __init__(self, seed=0):
        super().__init__(seed)
        torch.manual_seed(98)
        self.teacher = Frozen(Student())
        self.student[3].p = 0.0  # random numbers are not the callback's to resume
        self.taught = []

    def training_step(self, batch, batch_idx):
        self.taught.append(weights(self.teacher.module))
        return super().training_step(batch, batch_idx)

    def evaluate(self, batch, stage):
        super().evaluate(batch, stage)
        self.validated[-1] = weights(self.teacher.module)


class Trace(L.Callback):
    """The student's weights at the start and after every optimizer step."""

    def __init__(self):
        self.states = []

    def on_train_start(self, trainer, pl_module):
        self.states.append(weights(pl_module.student))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == len(self.states):
            self.states.append(weights(pl_module.student))


def expected(states, decays):
    """The average by its definition, over a list of all states."""
    average = {name: value.clone() for name, value in states[0].items()}
    for decay, state in zip(decays, states[1:], strict=True):
        for name, value in state.items():
            average[name] = decay * average[name] + (1 - decay) * value if value.is_floating_point() else value
    return average


def fit(folder, callback, module=None, *callbacks, **settings):
    module, trace = module or SelfTaught(), Trace()
    run = trainer(folder, callback, trace, *callbacks, **settings)
    run.fit(module, batches(), batches(1))
    return module, trace.states


@pytest.mark.parametrize(
    ("arguments", "settings", "decays"),
    [
        ({"decay": 0.9, "warmup": False}, {}, [0.9] * 12),
        ({"decay": 0.9}, {}, [1 / 2, 2 / 3, 3 / 4, 4 / 5, 5 / 6, 6 / 7, 7 / 8, 8 / 9] + [0.9] * 4),
        ({"decay": 0.9, "warmup": False}, {"accumulate_grad_batches": 2}, [0.9] * 6),
        (
            {"decay": 0.5, "end": 1.0, "warmup": False},
            {},
            [1 - 0.25 * (1 + math.cos(math.pi * step / 12)) for step in range(12)],
        ),
    ],
)
def test_is_the_average_over_optimizer_steps(tmp_path, arguments, settings, decays):
    module, states = fit(tmp_path, MomentumTeacher(**arguments), **settings)
    assert len(states) == 1 + len(decays)
    torch.testing.assert_close(weights(module.teacher.module), expected(states, decays))


def test_begins_as_the_student_and_teaches_with_what_it_is(tmp_path):
    module, states = fit(tmp_path, MomentumTeacher(decay=0.9, warmup=False))
    assert same(module.validated[0], states[0])  # the sanity check
    for step, taught in enumerate(module.taught):
        torch.testing.assert_close(taught, expected(states[: step + 1], [0.9] * step))
    assert not any(p.requires_grad for p in module.teacher.parameters())
    assert not module.teacher.module.training


def test_with_warmup_alone_it_is_the_mean_of_all_students(tmp_path):
    module, states = fit(tmp_path, MomentumTeacher(decay=1.0))
    for name, value in module.teacher.module.named_parameters():
        torch.testing.assert_close(value.detach(), torch.stack([state[name] for state in states]).mean(0))


def test_without_memory_it_is_the_student(tmp_path):
    module, _ = fit(tmp_path, MomentumTeacher(decay=0.0))
    assert same(weights(module.teacher.module), weights(module.student))


@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, precision):
    def run(seed, **kwargs):
        module, callback = SelfTaught(seed), MomentumTeacher(decay=0.999, end=1.0, warmup=False)
        settings = {"precision": precision, "max_epochs": 4}
        trainer(tmp_path, callback, SaveAfter(2), **settings).fit(module, batches(), batches(1), **kwargs)
        return module, callback.state_dict()["teacher"]

    module, average = run(0)
    resumed, again = run(5, ckpt_path=tmp_path / "epochs-2.ckpt", weights_only=True)
    assert same(weights(module.student), weights(resumed.student))
    assert same(average, again)
    assert same(module.validated[-1], resumed.validated[-1])
    assert average["0.weight"].dtype == torch.float32


def test_half_precision_weights_are_averaged_in_single(tmp_path):
    callback = MomentumTeacher(decay=0.999, warmup=False)
    module, states = fit(tmp_path, callback, precision="bf16-true")
    assert states[0]["0.weight"].dtype == torch.bfloat16
    states = [{k: v.float() if v.is_floating_point() else v for k, v in state.items()} for state in states]
    average = expected(states, [0.999] * 12)
    torch.testing.assert_close(callback.state_dict()["teacher"], average)
    rounded = {k: v.bfloat16() if v.is_floating_point() else v for k, v in average.items()}
    assert same(weights(module.teacher.module), rounded)


def test_a_checkpoint_holds_the_teacher_in_the_callbacks_state_alone(tmp_path):
    module, _ = fit(tmp_path, MomentumTeacher(decay=0.9), None, SaveAfter(2))
    saved = torch.load(tmp_path / "epochs-2.ckpt", weights_only=True)
    assert same(saved["callbacks"]["MomentumTeacher"]["teacher"], weights(module.teacher.module))
    assert not [name for name in saved["state_dict"] if "teacher" in name]
    tested = SelfTaught(seed=3)
    run = trainer(tmp_path, MomentumTeacher(), SaveAfter(0))
    run.test(tested, batches(1), ckpt_path=tmp_path / "epochs-2.ckpt", verbose=False, weights_only=True)
    assert same(tested.validated[-1], weights(module.teacher.module))


def test_a_checkpoint_without_a_teacher_brings_the_student_to_begin_from(tmp_path):
    plain = SelfTaught(seed=1)
    run = trainer(tmp_path)
    run.fit(plain, batches(), batches(1))
    run.save_checkpoint(tmp_path / "plain.ckpt")
    module = SelfTaught()
    run = trainer(tmp_path, MomentumTeacher(), max_epochs=3)
    run.fit(module, batches(), batches(1), ckpt_path=tmp_path / "plain.ckpt")
    assert same(module.taught[0], weights(plain.student))


def test_every_fit_begins_anew(tmp_path):
    callback = MomentumTeacher(decay=0.9, warmup=False)
    fit(tmp_path, callback, SelfTaught(seed=4))
    again, _ = fit(tmp_path, callback)
    fresh, _ = fit(tmp_path, MomentumTeacher(decay=0.9, warmup=False))
    assert same(weights(again.teacher.module), weights(fresh.teacher.module))


def test_tied_weights_are_averaged_once(tmp_path):
    def tied():
        network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3))
        network[1].weight = network[0].weight
        return network

    module = FakeDistiller()
    module.student, module.teacher = tied(), Frozen(tied())
    module, states = fit(tmp_path, MomentumTeacher(decay=0.9, warmup=False), module)
    torch.testing.assert_close(weights(module.teacher.module), expected(states, [0.9] * 12))


def test_views_of_an_image_teach_a_distiller(tmp_path):
    torch.manual_seed(0)
    losses = {"ce": CrossEntropy(), "consistency": PairedViews(ProbabilityMSE(), weight=10.0)}
    module = Distiller(
        student=MLP(hidden=(16,)),
        teacher=MLP(hidden=(16,)),
        losses=losses,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    )
    run = trainer(tmp_path, MomentumTeacher(decay=0.9))
    run.fit(module, datamodule=Digits(limit=64, batch_size=16, strong_view=True))
    assert run.callback_metrics["train/consistency"] > 0
    assert 0 < run.callback_metrics["val/agreement"] < 1
    assert not same(weights(module.teacher.module), weights(module.student))


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield torch.zeros(4), 0


def test_bad_input(tmp_path):
    for arguments in ({"decay": 1.1}, {"end": -0.1}):
        with pytest.raises(InputError, match=rf"{next(iter(arguments))}: .* accepted is a number in \[0, 1\]"):
            MomentumTeacher(**arguments)
    module = FakeDistiller()  # whose teacher is a linear classifier
    with pytest.raises(InputError, match=r"0\.weight is None in the teacher but \(7, 4\) in the student"):
        fit(tmp_path, MomentumTeacher(), module)
    module.teacher = None
    with pytest.raises(InputError, match="MomentumTeacher needs a FakeDistiller with a teacher"):
        fit(tmp_path, MomentumTeacher(), module)
    endless = DataLoader(Endless(), batch_size=8)
    with pytest.raises(InputError, match="training has no end"):
        trainer(tmp_path, MomentumTeacher(end=1.0), max_epochs=-1).fit(SelfTaught(), endless, batches(1))


def test_the_teacher_of_another_architecture_is_refused(tmp_path):
    class Renamed(SaveAfter):
        def on_save_checkpoint(self, trainer, pl_module, checkpoint):
            teacher = checkpoint["callbacks"]["MomentumTeacher"]["teacher"]
            teacher["other"] = teacher.pop("0.weight")

    fit(tmp_path, MomentumTeacher(), None, Renamed(1))
    run = trainer(tmp_path, MomentumTeacher(), SaveAfter(0))
    with pytest.raises(InputError, match=r"of another architecture \(0\.weight is missing\)"):
        run.fit(SelfTaught(), batches(), batches(1), ckpt_path=tmp_path / "epochs-1.ckpt")


def test_it_needs_no_schedule_of_its_own(tmp_path):
    """``Schedule`` moves numbers of the module; the momentum moves by itself, as DINO's does."""
    callback = MomentumTeacher(decay=0.996, end=1.0, warmup=False)
    fit(tmp_path, callback)
    schedule = Schedule("losses.kd.weight", start=0.996, end=1.0, shape="cosine")
    assert [callback.decay_at(step + 1) for step in range(12)] == pytest.approx(
        [schedule.at(step / 12) for step in range(12)]
    )
