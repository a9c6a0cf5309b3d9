import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from lit_distill.callbacks import StudentEMA
from lit_distill.errors import InputError

from .fake import FakeDistiller, SaveAfter, batches, same, trainer, weights


class Trace(L.Callback):
    """The student's weights at the start and after every optimizer step."""

    def __init__(self):
        self.states = []

    def on_train_start(self, trainer, pl_module):
        self.states.append(weights(pl_module.student))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == len(self.states):
            self.states.append(weights(pl_module.student))


def expected(states, decay, warmup=False, every=1):
    """The average by its definition, over a list of all states."""
    average = {name: value.clone() for name, value in states[0].items()}
    for update, state in enumerate(states[every::every], start=1):
        d = min(decay, (1 + update) / (10 + update)) if warmup else decay
        for name, value in state.items():
            average[name] = d * average[name] + (1 - d) * value if value.is_floating_point() else value
    return average


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        ({"decay": 0.9, "warmup": False}, {}),
        ({"decay": 0.9, "warmup": True}, {}),
        ({"decay": 0.5, "warmup": False, "every": 3}, {}),
        ({"decay": 0.9, "warmup": False}, {"accumulate_grad_batches": 2}),
    ],
)
def test_is_the_average_over_optimizer_steps(tmp_path, arguments, settings):
    ema, trace = StudentEMA(**arguments), Trace()
    run = trainer(tmp_path, ema, trace, **settings)
    run.fit(FakeDistiller(), batches(), batches(1))
    assert len(trace.states) == 1 + run.global_step
    assert run.global_step == 12 // settings.get("accumulate_grad_batches", 1)
    torch.testing.assert_close(ema.averaged_student_state(), expected(trace.states, **arguments))
    assert not same(ema.averaged_student_state(), trace.states[-1])


def test_no_decay_is_the_student_itself(tmp_path):
    ema, module = StudentEMA(decay=0.0), FakeDistiller()
    trainer(tmp_path, ema).fit(module, batches(), batches(1))
    assert same(ema.averaged_student_state(), weights(module.student))


def test_training_goes_on_as_without_it(tmp_path):
    ends = []
    for callbacks in ([StudentEMA(decay=0.9)], []):
        module = FakeDistiller()  # seeds the random numbers of dropout too
        trainer(tmp_path, *callbacks).fit(module, batches(), batches(2))
        ends.append(weights(module))
    assert same(*ends)


def test_every_kind_of_evaluation_sees_the_average(tmp_path):
    ema, module = StudentEMA(decay=0.9), FakeDistiller()
    run = trainer(tmp_path, ema, num_sanity_val_steps=0)
    run.fit(module, batches(), batches(1))
    assert same(module.validated[-1], ema.averaged_student_state())
    own, average = weights(module.student), ema.averaged_student_state()
    assert not same(own, average)
    run.validate(module, batches(1), verbose=False)
    run.test(module, batches(1), verbose=False)
    assert all(same(seen, average) for seen in module.validated[-2:])
    predicted = run.predict(module, batches(1))[0]
    assert same(weights(module.student), own)
    with ema.averaged(module.student):
        torch.testing.assert_close(predicted, module.student.eval()(batches(1).batches[0][0]))
    assert same(weights(module.student), own)


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    def fit(ema, seed, **kwargs):
        module = FakeDistiller(seed)
        module.student[3].p = 0.0  # random numbers are not the callback's to resume
        run = trainer(tmp_path, ema, SaveAfter(2), max_epochs=4)
        run.fit(module, batches(), batches(1), **kwargs)
        return module

    whole, resumed = StudentEMA(decay=0.9), StudentEMA(decay=0.9)
    first = fit(whole, 0)
    second = fit(resumed, 5, ckpt_path=tmp_path / "epochs-2.ckpt")
    assert same(weights(first.student), weights(second.student))
    assert same(whole.averaged_student_state(), resumed.averaged_student_state())
    assert same(first.validated[-1], second.validated[-1])


def test_checkpoint_holds_the_students_own_weights_and_the_average_and_no_teacher(tmp_path):
    ema, module = StudentEMA(decay=0.9), FakeDistiller()
    checkpoint = ModelCheckpoint(tmp_path / "run", save_on_train_epoch_end=False)
    trainer(tmp_path, ema, checkpoint).fit(module, batches(), batches(1))
    saved = torch.load(checkpoint.best_model_path, weights_only=True)
    average = saved["callbacks"]["StudentEMA"]["average"]
    assert same(average, ema.averaged_student_state())
    assert same({k.removeprefix("student."): v for k, v in saved["state_dict"].items()}, weights(module.student))
    assert not [name for name in (*average, *saved["state_dict"]) if "teacher" in name]
    tested = FakeDistiller(seed=3)
    run = trainer(tmp_path, StudentEMA(), checkpoint)
    run.test(tested, batches(1), ckpt_path=checkpoint.best_model_path, verbose=False)
    assert same(tested.validated[-1], average)


def test_a_checkpoint_without_an_average_replaces_one_from_before(tmp_path):
    plain, module, ema = FakeDistiller(seed=1), FakeDistiller(), StudentEMA(decay=0.9)
    run = trainer(tmp_path)
    run.fit(plain, batches(), batches(1))
    run.save_checkpoint(tmp_path / "plain.ckpt")
    run = trainer(tmp_path, ema)
    run.fit(module, batches(), batches(1))
    run.test(module, batches(1), ckpt_path=tmp_path / "plain.ckpt", verbose=False)
    assert same(module.validated[-1], weights(plain.student))


def test_a_checkpoint_in_the_middle_of_a_validation_holds_the_students_own_weights(tmp_path):
    class Signal(L.Callback):
        def on_validation_batch_end(self, trainer, pl_module, *args):
            trainer.save_checkpoint(tmp_path / "signal.ckpt")

    ema, module = StudentEMA(decay=0.9), FakeDistiller()
    trainer(tmp_path, ema, Signal(), num_sanity_val_steps=0).fit(module, batches(), batches(1))
    saved = torch.load(tmp_path / "signal.ckpt", weights_only=True)
    assert same({k.removeprefix("student."): v for k, v in saved["state_dict"].items()}, weights(module.student))
    assert same(saved["callbacks"]["StudentEMA"]["average"], module.validated[-1])


def test_an_interrupted_validation_gives_the_student_its_weights_back(tmp_path):
    class Interrupted(FakeDistiller):
        def validation_step(self, batch, batch_idx):
            super().validation_step(batch, batch_idx)
            raise RuntimeError("stop")

    ema, module, trace = StudentEMA(decay=0.9), Interrupted(), Trace()
    with pytest.raises(RuntimeError, match="stop"):
        trainer(tmp_path, ema, trace, num_sanity_val_steps=0).fit(module, batches(), batches(1))
    assert same(weights(module.student), trace.states[-1])
    assert not same(module.validated[-1], trace.states[-1])


def test_half_precision_weights_are_averaged_in_single(tmp_path):
    ema, trace = StudentEMA(decay=0.999, warmup=False), Trace()
    trainer(tmp_path, ema, trace, precision="bf16-true").fit(FakeDistiller(), batches(), batches(1))
    states = [{k: v.float() if v.is_floating_point() else v for k, v in state.items()} for state in trace.states]
    assert trace.states[0]["0.weight"].dtype == torch.bfloat16
    torch.testing.assert_close(ema.averaged_student_state(), expected(states, 0.999))


def test_tied_weights_stay_tied(tmp_path):
    class Tied(FakeDistiller):
        def __init__(self):
            super().__init__()
            self.student = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3))
            self.student[1].weight = self.student[0].weight

    ema, module, trace = StudentEMA(decay=0.9, warmup=False), Tied(), Trace()
    trainer(tmp_path, ema, trace).fit(module, batches(), batches(1))
    torch.testing.assert_close(ema.averaged_student_state(), expected(trace.states, 0.9))
    assert module.student[1].weight is module.student[0].weight
    assert same(weights(module.student), trace.states[-1])


def test_every_fit_has_an_average_of_its_own(tmp_path):
    ema, fresh = StudentEMA(decay=0.9), StudentEMA(decay=0.9)
    trainer(tmp_path, ema).fit(FakeDistiller(seed=4), batches(), batches(1))
    for callback in (ema, fresh):
        trainer(tmp_path, callback).fit(FakeDistiller(), batches(), batches(1))
    assert same(ema.averaged_student_state(), fresh.averaged_student_state())


def test_bad_input(tmp_path):
    with pytest.raises(InputError, match=r"decay: 1.0 given to StudentEMA"):
        StudentEMA(decay=1.0)
    with pytest.raises(InputError, match="every: 0 given"):
        StudentEMA(every=0)
    module = FakeDistiller()
    del module.student
    with pytest.raises(InputError, match="StudentEMA needs a module with a student"):
        trainer(tmp_path, StudentEMA()).fit(module, batches(), batches(1))


def test_the_average_of_another_student_is_refused(tmp_path):
    class Renamed(SaveAfter):
        def on_save_checkpoint(self, trainer, pl_module, checkpoint):
            average = checkpoint["callbacks"]["StudentEMA"]["average"]
            average["other"] = average.pop("0.weight")

    trainer(tmp_path, StudentEMA(), Renamed(1)).fit(FakeDistiller(), batches(), batches(1))
    run = trainer(tmp_path, StudentEMA(), SaveAfter(1))
    with pytest.raises(InputError, match=r"averaged another student \(0\.weight is in only one of the two\)"):
        run.fit(FakeDistiller(), batches(), batches(1), ckpt_path=tmp_path / "epochs-1.ckpt")
