import numpy as np
import pytest
import torch
from torch import nn

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import WKDL
from lit_distill.losses.logit import class_costs, wkdl
from lit_distill.models import Ensemble

TARGET = torch.tensor([0, 4, 2, 3, 1, 1])


def both(batch=6, classes=5):
    generator = torch.Generator().manual_seed(0)
    student, teacher = 2 * torch.randn(2, batch, classes, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def costs(classes=5):
    return class_costs(torch.randn(classes, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64))


def transport(student, teacher, target, matrix, **given):
    return wkdl(student, teacher, target, matrix, gamma=1.0, **given) - wkdl(student, teacher, target, matrix, gamma=0)


def test_costs_of_similar_classes_are_small():
    near = torch.tensor([[1.0, 0.0], [2.0, 0.1], [-1.0, 0.0]])
    matrix = class_costs(near)
    assert torch.equal(matrix, matrix.T)
    torch.testing.assert_close(matrix.diag(), torch.zeros(3))
    assert 0 < matrix[0, 1] < 0.01 < matrix[0, 2] < 1
    assert (class_costs(near, sharpness=5.0) >= matrix).all()


def test_one_matrix_serves_all_rows_as_if_the_label_were_cut_out_of_each():
    student, teacher = both()
    by_hand = []
    for s, t, y in zip(student, teacher, TARGET, strict=True):
        others = torch.arange(5) != y
        q, p, matrix = (s[others] / 4).softmax(0), (t[others] / 4).softmax(0), costs()[others][:, others]
        kernel, u = torch.exp(-matrix / 0.05), torch.full((4,), 0.25, dtype=torch.float64)
        for _ in range(3):
            v = p / (kernel.T @ u)
            u = q / (kernel @ v)
        by_hand.append((u[:, None] * kernel * v * matrix).sum())
    value = transport(student, teacher, TARGET, costs(), temperature=4.0, iterations=3)
    torch.testing.assert_close(value, torch.stack(by_hand).mean(), rtol=1e-5, atol=1e-7)


def test_among_classes_of_one_cost_it_tends_to_their_total_variation():
    student, teacher = both()
    matrix = 0.1 * (1 - torch.eye(5, dtype=torch.float64))
    value = transport(student, teacher, TARGET, matrix, temperature=2.0, regularisation=0.01, iterations=200)
    rest = [x.scatter(1, TARGET[:, None], -torch.inf).div(2).softmax(1) for x in (student, teacher)]
    torch.testing.assert_close(value, 0.1 * (rest[0] - rest[1]).abs().sum(1).mean() / 2, rtol=1e-2, atol=0)


def test_a_confusion_of_similar_classes_costs_less():
    matrix = torch.tensor([[0.0, 0.9, 0.9, 0.9], [0.9, 0.0, 0.1, 0.9], [0.9, 0.1, 0.0, 0.9], [0.9, 0.9, 0.9, 0.0]])
    says = 5 * torch.eye(4)
    similar = transport(says[[1]], says[[2]], torch.tensor([0]), matrix, temperature=1.0)
    other = transport(says[[1]], says[[3]], torch.tensor([0]), matrix, temperature=1.0)
    assert 3 * similar < other


def test_without_transport_it_is_the_cross_entropy_weighed_by_the_teacher():
    student, teacher = both()
    q, p = student.log_softmax(1), teacher.softmax(1)
    expected = -torch.stack([p[i, y] * q[i, y] for i, y in enumerate(TARGET)]).mean()
    torch.testing.assert_close(wkdl(student, teacher, TARGET, costs(), gamma=0.0), expected)


def test_the_transport_does_not_move_the_label():
    student, teacher = both()
    (gradient,) = torch.autograd.grad(transport(student, teacher, TARGET, costs()), student)
    assert gradient.gather(1, TARGET[:, None]).abs().max() < 1e-12
    assert gradient.abs().max() > 1e-6


def test_costs_of_the_teachers_classifier():
    student, teacher = both()
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5)).double()
    loss = WKDL(gamma=7.0, temperature=3.0, sharpness=2.0, regularisation=0.1, iterations=4)
    loss.attach(nn.Identity(), network)
    value = loss(Outputs(student), Outputs(teacher), TARGET)
    given = {"gamma": 7.0, "temperature": 3.0, "regularisation": 0.1, "iterations": 4}
    matrix = class_costs(network[2].weight, sharpness=2.0).detach()
    torch.testing.assert_close(value, wkdl(student, teacher, TARGET, matrix, **given))
    assert not loss.state_dict()


def test_costs_of_a_member_and_of_a_named_layer():
    large, small = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5)), nn.Linear(3, 5)
    for given, weight in (({}, large[2]), ({"classifier": "0"}, large[0])):
        loss = WKDL(teacher="large", **given)
        loss.attach(nn.Identity(), Ensemble({"large": large, "small": small}))
        assert torch.equal(loss.cost_matrix, class_costs(weight.weight))


def test_costs_of_a_file(tmp_path):
    np.save(tmp_path / "costs.npy", costs().numpy())
    loss = WKDL(costs=str(tmp_path / "costs.npy"))
    loss.attach(nn.Identity(), nn.Identity())
    torch.testing.assert_close(loss.cost_matrix, costs().float())


@pytest.mark.parametrize("content", [None, b"no array", np.zeros(3), np.zeros((3, 4)), np.array([["a"]])])
def test_a_file_without_costs(tmp_path, content):
    path = tmp_path / "costs.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(InputError, match=r"^costs must be (the path of a file \.npy|a square matrix)"):
        WKDL(costs=str(path)).attach(nn.Identity(), nn.Identity())


def test_costs_must_be_of_these_classes():
    with pytest.raises(InputError, match=r"costs must be of shape \(5, 5\), got \(4, 4\)"):
        wkdl(*both(), TARGET, costs(4))


def test_it_must_meet_the_teacher():
    with pytest.raises(InputError, match="WKDL must meet the teacher before it is called"):
        WKDL()(Outputs(torch.zeros(6, 5)), Outputs(torch.zeros(6, 5)), TARGET)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"gamma": -1.0}, "gamma must be 0 or positive, got -1.0"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"sharpness": 0.0}, "sharpness must be positive, got 0.0"),
        ({"regularisation": 0.0}, "regularisation must be positive, got 0.0"),
        ({"iterations": 0}, "iterations must be positive, got 0"),
    ],
)
def test_bad_hyperparameters(given, message):
    with pytest.raises(InputError, match=message):
        WKDL(**given)
