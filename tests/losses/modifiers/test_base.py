import pytest
import torch
from jsonargparse import ArgumentParser
from torch import nn

from lit_distill import losses
from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import CTKD, KD, ConfidenceMask, DistillLoss, FitNet, LogitLoss, PairedViews, Standardised, TopK

from .common import KINDS, both, call, kd


class Spy(LogitLoss):
    """A term that remembers what it was told."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.told = {}

    def attach(self, student, teacher):
        self.told["attach"] = (student, teacher)

    def build(self, student, teacher):
        self.told["build"] = (student, teacher)
        self.scale = nn.Parameter(torch.ones(student.logits.shape[-1]))

    def forward(self, student, teacher, target):
        self.told["forward"] = (student, teacher, target)
        return (self.scale * (student.logits - teacher.logits)).square().mean()


def test_attach_and_build_reach_the_term_at_the_core():
    spy, networks = Spy(), (nn.Linear(2, 3), nn.Linear(4, 3))
    loss = Standardised(ConfidenceMask(spy))
    loss.attach(*networks)
    student, teacher = Outputs(torch.zeros(2, 3)), Outputs(torch.ones(2, 3))
    loss.build(student, teacher)
    assert spy.told["attach"] == networks
    assert spy.told["build"] == (student, teacher)
    assert [name for name, _ in loss.named_parameters()] == ["loss.loss.scale"]


@pytest.mark.parametrize(("tail", "left"), [("bucket", 4), ("renormalise_both", 3), ("renormalise_teacher", 7)])
def test_a_term_with_parameters_is_built_for_the_classes_that_are_left(tail, left):
    student, teacher, target = both()
    loss = Standardised(TopK(spy := Spy(), k=3, tail=tail))
    loss.build(Outputs(student[:2]), Outputs(teacher[:2]))
    call(loss, student, teacher, target).backward()
    assert spy.scale.grad.shape == (left,)


@pytest.mark.parametrize("kind", ["confident", "correct", "strong_from_weak", "crossed"])
def test_features_and_numbers_of_samples_go_with_the_logits(kind):
    student, teacher, target = both()
    spy = Spy()
    spy.layers = {"s": "t"}
    loss = Standardised(KINDS[kind](spy))
    assert loss.layers == {"s": "t"}
    loss.build(Outputs(student[:2]), Outputs(teacher[:2]))
    numbers = torch.arange(8)
    told = [
        Outputs(logits, {path: logits[:, :1], "other": torch.empty(0)}, numbers)
        for logits, path in ((student, "s"), (teacher, "t"))
    ]
    loss(*told, target)
    for heard, logits, path in zip(spy.told["forward"], (student, teacher), "st", strict=False):
        assert len(heard.logits) == len(heard.sample_index)
        assert torch.equal(heard.features[path], logits[heard.sample_index, :1])
    student_heard, _, labels = spy.told["forward"]
    assert torch.equal(labels, target[student_heard.sample_index])


def test_the_weight_is_that_of_the_outermost():
    assert Standardised(TopK(KD(), k=3), weight=9.0).weight == 9
    with pytest.raises(InputError, match=r"weight of the loss within Standardised must be 1, got 0\.9; weigh Stand"):
        Standardised(KD(weight=0.9))


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_within_that_changes_in_training_is_refused(kind):
    loss = KINDS[kind](kd())
    loss.loss.weight = 0.5
    with pytest.raises(InputError, match=r"must be 1, got 0\.5"):
        call(loss, *both())


def test_the_teacher_is_that_of_the_term_within():
    assert Standardised(TopK(KD(teacher="b"), k=3)).teacher == "b"
    assert Standardised(KD(), teacher="a").teacher == "a"
    assert Standardised(KD(teacher="a"), teacher="a").teacher == "a"
    with pytest.raises(InputError, match="teacher must be that of the term within, 'a', or left out, got 'b'"):
        Standardised(KD(teacher="a"), teacher="b")


def test_only_terms_on_logits_are_modified():
    with pytest.raises(InputError, match="loss must be a term on logits, got FitNet"):
        Standardised(FitNet(layers={"a": "b"}))


def test_they_nest_in_yaml():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--losses", type=dict[str, DistillLoss])
    config = parser.parse_string(
        """
        losses:
          kd:
            class_path: lit_distill.losses.Standardised
            init_args:
              weight: 9.0
              loss:
                class_path: lit_distill.losses.TopK
                init_args:
                  k: 5
                  loss: {class_path: lit_distill.losses.KD, init_args: {temperature: 2.0}}
        """
    )
    loss = parser.instantiate(config).losses["kd"]
    assert [type(x).__name__ for x in (loss, loss.loss, loss.loss.loss)] == ["Standardised", "TopK", "KD"]
    assert (loss.weight, loss.loss.k, loss.loss.loss.temperature) == (9, 5, 2)


def test_every_modifier_is_public():
    kinds = {type(make(KD())) for make in KINDS.values()}
    assert all(getattr(losses, kind.__name__) is kind for kind in kinds)
    assert {CTKD, PairedViews} < kinds
