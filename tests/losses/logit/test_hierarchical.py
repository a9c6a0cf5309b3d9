import pytest
import torch
from torch.nn import functional as F

from lit_distill import Distiller
from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import CTKD, KD, OFA, CrossEntropy, Hierarchical, Standardised
from lit_distill.losses.logit import hierarchical, kd
from lit_distill.models import MLP, MultiExit, resnet8

TARGET = torch.tensor([0, 3, 2, 1])
EXITS = {"exits.early": 1, "exits.middle": 2}
SHAPE = (1, 8, 8)


def said(seed=0, classes=6):
    """What three exits say, the deepest last."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 4, classes, generator=generator, dtype=torch.float64).requires_grad_()


def outputs(answers):
    return Outputs(answers[2], {"exits.early": answers[0], "exits.middle": answers[1]})


def test_it_is_the_formula_of_the_paper():
    """Exits at the layers 4, 9, 18, 27 of 36, and the network."""
    layers = [4, 9, 18, 27, 36]
    terms = torch.arange(1.0, 6.0)
    expected = sum(loss * layer / 36 for loss, layer in zip(terms.tolist(), layers, strict=True))
    assert hierarchical(list(terms), layers, depth=36).item() == pytest.approx(expected)


def test_cross_entropy_at_each_exit_counts_by_depth():
    answers = said()
    early, middle, deepest = (F.cross_entropy(logits, TARGET) for logits in answers)
    value = Hierarchical(CrossEntropy(), EXITS, depth=3)(outputs(answers), Outputs(answers[2]), TARGET)
    torch.testing.assert_close(value, early / 3 + 2 * middle / 3 + deepest)


def test_the_order_of_exits_does_not_matter():
    answers = said()
    values = [
        Hierarchical(CrossEntropy(), dict(order), depth=3)(outputs(answers), Outputs(answers[2]), TARGET)
        for order in (EXITS.items(), reversed(EXITS.items()))
    ]
    torch.testing.assert_close(*values)


def test_each_exit_gets_its_share_of_the_gradient():
    answers = said()
    value = Hierarchical(CrossEntropy(), EXITS, depth=3)(outputs(answers), Outputs(answers[2]), TARGET)
    (gradient,) = torch.autograd.grad(value, answers)
    (expected,) = torch.autograd.grad(sum(F.cross_entropy(logits, TARGET) for logits in answers), answers)
    torch.testing.assert_close(gradient, torch.tensor([1 / 3, 2 / 3, 1]).double()[:, None, None] * expected)


def test_without_a_teacher_the_deepest_exit_teaches_and_is_not_taught():
    answers = said()
    own = Outputs(answers[2].detach())
    value = Hierarchical(KD(temperature=2.0), EXITS, depth=3)(outputs(answers), own, TARGET)
    early, middle = (kd(logits, own.logits, 2.0) for logits in answers[:2])
    torch.testing.assert_close(value, early / 3 + 2 * middle / 3)
    (gradient,) = torch.autograd.grad(value, answers)
    torch.testing.assert_close(gradient[2], torch.zeros_like(gradient[2]))
    assert (gradient[:2].flatten(1).abs().amax(1) > 0).all()


def test_with_a_teacher_every_exit_learns_from_it():
    answers, teacher = said(), said(1)[0].detach()
    value = Hierarchical(KD(), EXITS, depth=3)(outputs(answers), Outputs(teacher), TARGET)
    expected = sum(share * kd(logits, teacher) for share, logits in zip((1 / 3, 2 / 3, 1), answers, strict=True))
    torch.testing.assert_close(value, expected)


def test_it_nests_with_other_modifiers():
    answers, teacher = said(), Outputs(said(1)[0].detach())
    within = Hierarchical(Standardised(KD()), EXITS, depth=3)(outputs(answers), teacher, TARGET)
    at_each = [Standardised(KD())(Outputs(logits), teacher, TARGET) for logits in answers]
    torch.testing.assert_close(within, hierarchical(at_each, [1, 2, 3], 3))
    assert Hierarchical(CTKD(KD()), EXITS, depth=3).layers.keys() == EXITS.keys()


def distiller(teacher=None, **losses):
    torch.manual_seed(0)
    return Distiller(
        student=MultiExit(resnet8(num_classes=10, in_channels=1), {"early": "layer1", "middle": "layer2"}, SHAPE),
        teacher=teacher,
        losses=losses,
        optimizer=torch.optim.SGD,
        input_shape=SHAPE,
    )


def batch():
    return torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(1)), TARGET


def test_within_a_distiller_without_a_teacher():
    module = distiller(
        ce=Hierarchical(CrossEntropy(), EXITS, depth=3), kd=Hierarchical(KD(), EXITS, depth=3, weight=0.5)
    ).eval()
    answers = module.student.answers(batch()[0])
    _, terms = module.terms(batch())
    labels = [F.cross_entropy(logits, TARGET) for logits in answers]
    deepest = [kd(logits, answers[2]) for logits in answers]
    torch.testing.assert_close(terms["ce"], hierarchical(labels, [1, 2, 3], 3))
    torch.testing.assert_close(terms["kd"], hierarchical(deepest, [1, 2, 3], 3))
    terms["kd"].backward()
    network = module.student.network
    assert network.fc.weight.grad is None or network.fc.weight.grad.abs().max() < 1e-6
    assert network.layer2[0].conv1.weight.grad.abs().max() > 1e-4
    module.terms(batch())[1]["ce"].backward()
    assert all(p.grad is not None for p in module.student.parameters())


def test_within_a_distiller_with_a_teacher():
    module = distiller(MLP(SHAPE, hidden=(8,)), kd=Hierarchical(KD(), EXITS, depth=3)).eval()
    x, _ = batch()
    terms = [kd(logits, module.teacher(x)) for logits in module.student.answers(x)]
    torch.testing.assert_close(module.terms(batch())[1]["kd"], hierarchical(terms, [1, 2, 3], 3))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"exits": {}}, r"exits must be \{module path of the student: number of layers\}, got \{\}"),
        ({"exits": {"a": 3}}, r"exits must be between 1 and 2 of the layers, got \{'a': 3\}"),
        ({"exits": {"a": 0}}, r"exits must be between 1 and 2 of the layers, got \{'a': 0\}"),
        ({"loss": OFA(stages=["a"])}, "loss must be a term on logits alone, got OFA"),
        ({"loss": CrossEntropy(weight=0.5)}, "weight of the loss within Hierarchical must be 1, got 0.5"),
    ],
)
def test_bad_hyperparameters(given, message):
    with pytest.raises(InputError, match=message):
        Hierarchical(**{"loss": CrossEntropy(), "exits": EXITS, "depth": 3, **given})
