import pytest
import torch
from torch import nn

from lit_distill.core.outputs import Outputs
from lit_distill.distiller import Distiller
from lit_distill.errors import InputError
from lit_distill.losses import DTKD, KD, CrossEntropy, LogitMSE, OnLayers, Standardised
from lit_distill.models import MLP, AuxiliaryLogits

from .common import both, call

PAIR = {"early": "late"}


def outputs(student, teacher):
    """The networks' answers say nothing about what their layers do."""
    return Outputs(torch.zeros(8, 3), {"early": student}), Outputs(torch.ones(8, 3), {"late": teacher})


@pytest.mark.parametrize("term", [KD, LogitMSE, DTKD, CrossEntropy, lambda: Standardised(KD())])
def test_is_the_term_within_on_the_layers(term):
    student, teacher, target = both()
    value = OnLayers(term(), layers=PAIR)(*outputs(student, teacher), target)
    torch.testing.assert_close(value, call(term(), student, teacher, target))


def test_knows_the_layers_and_what_the_term_within_needs():
    loss = OnLayers(KD(teacher="first"), layers=PAIR, weight=2.0)
    assert (loss.layers, loss.teacher, loss.weight) == (PAIR, "first", 2.0)
    assert loss.needs_teacher
    assert not OnLayers(CrossEntropy(), layers=PAIR).needs_teacher


def test_builds_the_term_within_for_the_layers():
    class Projected(KD):
        def build(self, student, teacher):
            self.projector = nn.Linear(student.logits.shape[1], teacher.logits.shape[1])

    loss = OnLayers(Projected(), layers=PAIR)
    loss.build(*outputs(torch.zeros(8, 5), torch.zeros(8, 2)))
    assert loss.loss.projector.weight.shape == (2, 5)


def test_teaches_a_distiller_what_its_answer_is_not():
    torch.manual_seed(0)
    student, teacher = (AuxiliaryLogits(MLP(num_classes=13)) for _ in range(2))
    module = Distiller(
        student=student,
        teacher=teacher,
        losses={"auxiliary": OnLayers(KD(temperature=1.0), layers={"auxiliary": "auxiliary"})},
        optimizer=torch.optim.Adam,
        input_shape=(1, 8, 8),
    )
    x, target = torch.randn(4, 1, 8, 8), torch.zeros(4, dtype=torch.long)
    _, terms = module.terms((x, target))
    hidden = [network.model(x)[:, 10:] for network in (student, teacher)]
    torch.testing.assert_close(terms["auxiliary"], call(KD(temperature=1.0), *hidden, target))
    terms["auxiliary"].backward()
    assert (student.model.fc.weight.grad[:10] == 0).all()
    assert student.model.blocks[0].linear.weight.grad.abs().sum() > 0


def test_bad_input():
    with pytest.raises(InputError, match=r"layers must be one pair \{student path: teacher path\}, got \{\}"):
        OnLayers(KD(), layers={})
    with pytest.raises(InputError, match="layers must be one pair"):
        OnLayers(KD(), layers={"a": "b", "c": "d"})
    student, teacher, target = both()
    with pytest.raises(InputError, match="of one shape"):
        OnLayers(KD(), layers=PAIR)(*outputs(student[:, :2], teacher), target)
