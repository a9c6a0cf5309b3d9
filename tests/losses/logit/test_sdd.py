import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import DKD, KD, SDD, FitNet
from lit_distill.losses.logit import cell_logits, kd, sdd
from lit_distill.models import ConvNet, Ensemble, resnet8

TARGET = torch.tensor([0, 3, 2, 1])


def cells(batch=4, number=5, classes=6):
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, batch, number, classes, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def term(s, t, y):
    return kd(s, t, 2.0)


def networks():
    torch.manual_seed(0)
    return ConvNet(in_channels=1, width=8, depth=2).eval(), resnet8(num_classes=10, in_channels=1).eval()


def outputs(network, path, x):
    found = []
    hook = network.get_submodule(path).register_forward_hook(lambda m, args, out: found.append(out))
    logits = network(x)
    hook.remove()
    return Outputs(logits, {path: found[0]})


def test_each_cell_weighs_one_and_complementary_cells_two():
    student, teacher = cells()
    total = 0
    for b in range(4):
        for n in range(5):
            right, globally = (teacher[b, i].argmax() == TARGET[b] for i in (n, 0))
            total += (1 if right == globally else 2) * term(student[b, [n]], teacher[b, [n]], TARGET[[b]])
    torch.testing.assert_close(sdd(student, teacher, TARGET, term), total / 20)


def test_there_are_complementary_cells_where_one_is_right_and_the_whole_wrong_or_the_reverse():
    student, teacher = cells()
    right = 9.0 * F.one_hot(TARGET, 6)[:, None].double()
    wrong = right.roll(1, -1)
    for first, second in ((right, wrong), (wrong, right)):
        teacher = torch.cat([first, second], 1)
        value = sdd(student[:, :2], teacher, TARGET, term)
        parts = [term(student[:, n], teacher[:, n], TARGET) for n in range(2)]
        torch.testing.assert_close(value, (parts[0] + 2 * parts[1]) / 2)


def test_with_the_whole_map_alone_it_is_the_term():
    student, teacher = cells(number=1)
    torch.testing.assert_close(sdd(student, teacher, TARGET, term), term(student[:, 0], teacher[:, 0], TARGET))


def test_a_mixed_label_counts_as_its_likeliest_class_and_reaches_the_term():
    student, teacher = cells()
    mixed = 0.7 * F.one_hot(TARGET, 6).double() + 0.3 * F.one_hot(TARGET.roll(1), 6)
    seen = []

    def spy(s, t, y):
        seen.append(y)
        return term(s, t, y)

    torch.testing.assert_close(sdd(student, teacher, mixed, spy), sdd(student, teacher, TARGET, term))
    assert torch.equal(seen[0].view(4, 5, 6), mixed[:, None].expand(4, 5, 6))


def test_cells_are_means_of_quarters_row_by_row():
    feature, classifier = torch.randn(2, 3, 8, 8), nn.Linear(3, 6)
    logits = cell_logits(feature, classifier, (1, 2))
    torch.testing.assert_close(logits[:, 0], classifier(feature.mean((2, 3))))
    torch.testing.assert_close(logits[:, 2], classifier(feature[:, :, :4, 4:].mean((2, 3))))
    torch.testing.assert_close(logits[:, 1:].mean(1), logits[:, 0])


def test_the_first_cell_is_what_each_network_says():
    student, teacher = networks()
    x = torch.randn(4, 1, 8, 8)
    for network, path in ((student, "blocks"), (teacher, "layer3")):
        said = outputs(network, path, x)
        torch.testing.assert_close(cell_logits(said.features[path], network.fc)[:, 0], said.logits)


@pytest.mark.parametrize("within", [KD(temperature=3.0), DKD()])
def test_the_class_around_a_term(within):
    student, teacher = networks()
    x = torch.randn(4, 1, 8, 8)
    s, t = outputs(student, "blocks", x), outputs(teacher, "layer3", x)
    loss = SDD(within, layers={"blocks": "layer3"}, grids=(1, 2), factor=3.0)
    loss.attach(student, teacher)
    value = loss(s, t, TARGET)
    both = [cell_logits(o.features[p], n.fc, (1, 2)) for o, p, n in ((s, "blocks", student), (t, "layer3", teacher))]
    expected = sdd(*both, TARGET, lambda s, t, y: within(Outputs(s), Outputs(t), y), factor=3.0)
    torch.testing.assert_close(value, expected)
    gradients = torch.autograd.grad(value, [student.blocks[0].conv.weight, student.fc.weight])
    assert all(gradient.abs().max() > 0 for gradient in gradients)


def test_classifiers_are_neither_parameters_nor_in_checkpoints_and_are_those_of_a_copy():
    student, teacher = networks()
    loss = SDD(KD(), layers={"blocks": "layer3"})
    loss.attach(student, teacher)
    assert not list(loss.parameters())
    assert not loss.state_dict()
    copied = copy.deepcopy(nn.ModuleDict({"student": student, "loss": loss}))
    assert copied["loss"].classifiers[0] is copied["student"].fc


def test_a_member_and_named_classifiers():
    student, teacher = networks()
    loss = SDD(KD(teacher="large"), layers={"blocks": "layer3"}, student_classifier="fc", teacher_classifier="fc")
    loss.attach(student, Ensemble({"large": teacher, "other": student}))
    assert loss.classifiers == (student.fc, teacher.fc)


@pytest.mark.parametrize("feature", [torch.zeros(4, 8), torch.zeros(4, 7, 2, 2)])
def test_a_feature_that_the_classifier_does_not_take(feature):
    loss = SDD(KD(), layers={"it": "it"})
    loss.attach(nn.Linear(8, 6), nn.Linear(8, 6))
    said = Outputs(torch.zeros(4, 6), {"it": feature})
    with pytest.raises(InputError, match=r"layers must name maps \(B, 8, H, W\), as the classifier takes them, got it"):
        loss(said, said, TARGET)


def test_networks_of_other_classes():
    loss = SDD(KD(), layers={"it": "it"})
    loss.attach(nn.Linear(8, 6), nn.Linear(8, 5))
    said = Outputs(torch.zeros(4, 6), {"it": torch.zeros(4, 8, 2, 2)})
    with pytest.raises(InputError, match="student and teacher cell logits must be of one shape"):
        loss(said, said, TARGET)


def test_it_must_meet_the_networks():
    said = Outputs(torch.zeros(4, 6), {"it": torch.zeros(4, 8, 2, 2)})
    with pytest.raises(InputError, match="SDD must meet the two networks before it is called"):
        SDD(KD(), layers={"it": "it"})(said, said, TARGET)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"layers": {}}, r"layers must be one pair \{student path: teacher path\}, got \{\}"),
        ({"layers": {"a": "a", "b": "b"}}, "layers must be one pair"),
        ({"grids": ()}, r"grids must be sizes that begin with 1, got \(\)"),
        ({"grids": (2, 4)}, r"grids must be sizes that begin with 1, got \(2, 4\)"),
        ({"grids": (1, 0)}, r"grids must be sizes that begin with 1, got \(1, 0\)"),
        ({"factor": -1.0}, "factor must be 0 or positive, got -1.0"),
        ({"loss": SDD(KD(), layers={"a": "a"})}, "loss must be a term on logits alone, got SDD"),
        ({"loss": FitNet(layers={"a": "a"})}, "loss must be a term on logits, got FitNet"),
    ],
)
def test_bad_hyperparameters(given, message):
    with pytest.raises(InputError, match=message):
        SDD(**{"loss": KD(), "layers": {"a": "a"}, **given})
