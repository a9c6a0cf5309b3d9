import copy
from itertools import combinations

import lightning as L
import pytest
import torch
from torch import nn

from lit_distill.callbacks import GradientConflict
from lit_distill.errors import InputError

from .fake import CE, FakeDistiller, FakeKD, batches, same, trainer, weights


class Against(CE):
    """The opposite of a term."""

    def forward(self, student, teacher, target):
        return -super().forward(student, teacher, target)


class OnlyFirstLayer(FakeDistiller):
    """A term that the classifier's weights do not reach, as a feature loss."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.last_terms["feature"] = self.student[0](batch[0]).square().mean()
        self.last_terms["constant"] = torch.tensor(1.0)
        return loss + self.last_terms["feature"]


class Logged(L.Callback):
    """What was logged at each step."""

    def __init__(self):
        self.steps = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps.append({k: v.item() for k, v in trainer.callback_metrics.items() if k.startswith("grad_")})


def gradients(module, batch):
    """By one backward pass for each term."""
    module = copy.deepcopy(module)
    module.log_dict = lambda *args, **kwargs: None
    flat = {}
    for name in module.losses:
        torch.manual_seed(3)
        module.zero_grad()
        module.training_step(batch, 0)
        module.last_terms[name].backward()
        flat[name] = torch.cat([p.grad.flatten() for p in module.student.parameters()])
    return flat


def test_equals_separate_backward_passes(tmp_path):
    module, logged, data = FakeDistiller(), Logged(), batches(1)
    module.student[3].p = 0.0
    expected = gradients(module, data.batches[0])
    trainer(tmp_path, GradientConflict(every=1), logged, max_epochs=1).fit(module, data, batches(1))
    (step,) = logged.steps
    for name, gradient in expected.items():
        assert step[f"grad_norm/{name}"] == pytest.approx(gradient.norm().item(), rel=1e-5)
    for a, b in combinations(expected, 2):
        cosine = torch.cosine_similarity(expected[a], expected[b], dim=0).item()
        assert step[f"grad_cosine/{a}_{b}"] == pytest.approx(cosine, rel=1e-4)
    assert len(step) == 3


@pytest.mark.parametrize("settings", [{}, {"accumulate_grad_batches": 2}, {"precision": "bf16-mixed"}])
def test_training_does_not_change_by_a_bit(tmp_path, settings):
    ends = []
    for callbacks in ([GradientConflict(every=1)], []):
        module = FakeDistiller()
        trainer(tmp_path, *callbacks, gradient_clip_val=0.1, **settings).fit(module, batches(), batches(1))
        ends.append(weights(module))
    assert same(*ends)


def test_opposite_terms_conflict_and_equal_ones_do_not(tmp_path):
    logged = Logged()
    module = FakeDistiller(a=CE(), b=CE(weight=1e-6), c=Against(), d=FakeKD(weight=0.0))
    trainer(tmp_path, GradientConflict(every=1), logged).fit(module, batches(), batches(1))
    for step in logged.steps:
        assert step["grad_cosine/a_b"] == pytest.approx(1.0)
        assert step["grad_cosine/a_c"] == pytest.approx(-1.0)
        assert step["grad_cosine/a_d"] == 0
        assert step["grad_norm/b"] == pytest.approx(1e-6 * step["grad_norm/a"])


def test_terms_that_reach_part_of_the_student_or_none(tmp_path):
    logged = Logged()
    trainer(tmp_path, GradientConflict(every=1), logged).fit(OnlyFirstLayer(), batches(), batches(1))
    assert all("grad_cosine/ce_feature" in step and step["grad_norm/feature"] > 0 for step in logged.steps)
    assert not [name for name in logged.steps[0] if "constant" in name]


def test_measures_at_the_steps_that_loggers_see(tmp_path):
    class Seen(GradientConflict):
        steps = ()

        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            pl_module.log_dict = lambda values: self.__setattr__("steps", (*self.steps, trainer.global_step + 1))
            super().on_before_zero_grad(trainer, pl_module, optimizer)
            del pl_module.log_dict

    seen = Seen(every=3)
    trainer(tmp_path, seen, accumulate_grad_batches=2, max_epochs=4).fit(FakeDistiller(), batches(), batches(1))
    assert set(seen.steps) == {3, 6, 9, 12}


def test_bad_input(tmp_path):
    with pytest.raises(InputError, match="every: 0 given to GradientConflict"):
        GradientConflict(every=0)
    for change in ({"automatic_optimization": False}, {"last_terms": None}):
        module = FakeDistiller()
        for name, value in change.items():
            setattr(module, name, value)
        if "last_terms" in change:
            del module.last_terms
        with pytest.raises(InputError, match="GradientConflict needs a module that keeps its last_terms"):
            trainer(tmp_path, GradientConflict()).fit(module, batches(), batches(1))


def test_compiled_student(tmp_path):
    ends = []
    for callbacks in ([GradientConflict(every=3)], []):
        module = FakeDistiller()
        module.student = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
        module.student.compile(backend="aot_eager")  # reuses buffers as inductor does, and needs no compiler
        trainer(tmp_path, *callbacks).fit(module, batches(), batches(1))
        ends.append(weights(module))
    assert same(*ends)
