import math

import lightning as L
import pytest

from lit_distill.callbacks import Schedule, WarmUp
from lit_distill.errors import InputError

from .fake import FakeDistiller, SaveAfter, batches, same, trainer, weights


class Values(L.Callback):
    """A number of the module during each batch."""

    def __init__(self, read):
        self.read, self.seen = read, []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append(self.read(pl_module))


def kd_weight(module):
    return module.losses["kd"].weight


def fit(folder, *callbacks, module=None, **settings):
    module = module or FakeDistiller()
    values = Values(kd_weight)
    keywords = {name: settings.pop(name) for name in ("ckpt_path",) if name in settings}
    run = trainer(folder, *callbacks, values, **settings)
    run.fit(module, batches(), batches(1), **keywords)
    return values.seen


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("linear", [4.0, 4.0, 3.5, 3.0, 2.5, 2.0, 2.0]),
        ("cosine", [4.0, 4.0, 3 + math.sqrt(0.5), 3.0, 3 - math.sqrt(0.5), 2.0, 2.0]),
        ("constant", [4.0, 4.0, 4.0, 4.0, 4.0, 2.0, 2.0]),
    ],
)
def test_shapes(shape, expected):
    schedule = Schedule("losses.kd.weight", start=4.0, end=2.0, shape=shape, begin=0.2, until=0.6)
    assert [schedule.at(p) for p in (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 1.0)] == pytest.approx(expected)


def test_a_jump_when_begin_is_until():
    schedule = Schedule("losses.kd.weight", start=4.0, end=2.0, begin=0.5, until=0.5)
    assert [schedule.at(p) for p in (0.49, 0.5, 0.51)] == [4.0, 2.0, 2.0]


def test_follows_optimizer_steps(tmp_path):
    schedule = Schedule("losses.kd.weight", start=0.0, end=1.0)
    assert fit(tmp_path, schedule) == pytest.approx([step / 12 for step in range(12)])
    halved = fit(tmp_path, schedule, accumulate_grad_batches=2)
    assert halved == pytest.approx([step // 2 / 6 for step in range(12)])
    assert fit(tmp_path, schedule, max_steps=4, max_epochs=-1) == pytest.approx([0, 0.25, 0.5, 0.75])


def test_changes_the_loss(tmp_path):
    """Moving a weight is the same as training with it; so are weights that never move."""
    ends = []
    for weight, callbacks in ((0.7, []), (123.0, [Schedule("losses.kd.weight", start=0.7, end=0.7)])):
        module = FakeDistiller()
        module.losses["kd"].weight = weight
        fit(tmp_path, *callbacks, module=module)
        ends.append(weights(module))
    assert same(*ends)


def test_any_number_by_its_path(tmp_path):
    module = FakeDistiller()
    module.losses["kd"].temperature = 4  # an integer is a number too
    schedules = [Schedule("losses.kd.temperature", start=4.0, end=1.0, until=0.5), Schedule("student.3.p", 0.5, 0.0)]
    fit(tmp_path, *schedules, module=module)
    assert module.losses["kd"].temperature == 1.0
    assert module.student[3].p == pytest.approx(0.5 / 12)


def test_a_resumed_run_goes_on(tmp_path):
    whole = fit(tmp_path, Schedule("losses.kd.weight", 0.0, 1.0), SaveAfter(1))
    resumed = fit(tmp_path, Schedule("losses.kd.weight", 0.0, 1.0), ckpt_path=tmp_path / "epochs-1.ckpt")
    assert resumed == whole[6:]


def test_warm_up_is_that_of_dkd(tmp_path):
    module = FakeDistiller()
    seen = fit(tmp_path, WarmUp("losses.kd.weight", epochs=3), module=module, max_epochs=5)
    expected = [0.7 * min(epoch / 3, 1.0) for epoch in range(1, 6)]
    assert seen[::6] == pytest.approx(expected)
    assert seen == [value for value in seen[::6] for _ in range(6)]


def test_warm_up_leaves_the_number_as_it_was(tmp_path):
    module, warm_up = FakeDistiller(), WarmUp("losses.kd.weight", epochs=10)
    first = fit(tmp_path, warm_up, module=module)
    assert kd_weight(module) == 0.7
    assert fit(tmp_path, warm_up, module=module) == first  # and not a warm-up of what the first fit had reached

    class Stop(L.Callback):
        def on_train_batch_end(self, *args):
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fit(tmp_path, warm_up, Stop(), module=module)
    assert kd_weight(module) == 0.7


def test_a_resumed_warm_up_goes_on(tmp_path):
    whole = fit(tmp_path, WarmUp("losses.kd.weight", 3), SaveAfter(1))
    resumed = fit(tmp_path, WarmUp("losses.kd.weight", 3), ckpt_path=tmp_path / "epochs-1.ckpt")
    assert resumed == whole[6:]


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("losses.kd.wieght", r"losses\.kd\.weight"),
        ("losses.kd.temprature", r"losses\.kd\.temperature"),
        ("loses.ce.weight", r"losses\.ce\.weight"),
        ("losses.nonsense", "losses.kd"),
        ("losses.kd", "losses.kd.weight"),  # a module
        ("student.0.weight", "student"),  # a parameter
        ("training", "losses.ce.weight, losses.kd"),  # a switch
        ("xyzzy", "losses.ce.weight, losses.kd.temperature, losses.kd.weight"),
    ],
)
@pytest.mark.parametrize("make", [lambda path: Schedule(path, 0.0, 1.0), lambda path: WarmUp(path, 3)])
def test_a_wrong_path_names_near_ones(tmp_path, make, path, near):
    with pytest.raises(InputError, match=f"path: '{path}' names no number of Fake.*; near are .*{near}") as error:
        fit(tmp_path, make(path))
    assert "\n" not in str(error.value)


def test_training_without_end_has_no_schedule(tmp_path):
    with pytest.raises(InputError, match=r"training has no end, so losses\.kd\.weight has no schedule"):
        fit(tmp_path, Schedule("losses.kd.weight", 0.0, 1.0), max_epochs=-1)

    class Endless:
        def __iter__(self):
            return iter(batches())

    with pytest.raises(InputError, match=r"set trainer\.max_epochs for a data set with a length, trainer\.max_steps"):
        trainer(tmp_path, Schedule("losses.kd.weight", 0.0, 1.0)).fit(FakeDistiller(), Endless(), batches(1))


def test_one_number_has_one_master(tmp_path):
    with pytest.raises(InputError, match=r"losses\.kd\.weight is set by Schedule and WarmUp at once"):
        fit(tmp_path, Schedule("losses.kd.weight", 0.0, 1.0), WarmUp("losses.kd.weight", 3))


def test_bad_arguments():
    with pytest.raises(InputError, match="shape: 'step' given to Schedule"):
        Schedule("losses.kd.weight", 0.0, 1.0, shape="step")
    for begin, until in ((-0.1, 1.0), (0.0, 1.1), (0.6, 0.4)):
        with pytest.raises(InputError, match=f"begin, until: {begin}, {until} given"):
            Schedule("losses.kd.weight", 0.0, 1.0, begin=begin, until=until)
    with pytest.raises(InputError, match="epochs: 0 given to WarmUp"):
        WarmUp("losses.kd.weight", epochs=0)
