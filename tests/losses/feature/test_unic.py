import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import UNIC
from lit_distill.losses.feature import unic_kept, unic_rows
from lit_distill.losses.feature.standardiser import Standardiser
from lit_distill.models import ConvNet, Ensemble, resnet8

from ...distributed.ranks import run
from . import unic_jobs

CNN, VIT = "members.cnn.layer3", "members.vit.norm"
LAYERS = {"one": CNN, "two": VIT}


def normal(*size, seed=0):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def outputs(batch=4, seed=0):
    student = {"one": normal(batch, 3, 4, 4, seed=seed), "two": normal(batch, 5, 2, 2, seed=seed + 50)}
    teacher = {CNN: normal(batch, 6, 2, 2, seed=seed + 100), VIT: normal(batch, 17, 7, seed=seed + 150)}
    return Outputs(torch.zeros(batch, 3), student), Outputs(torch.zeros(batch, 3), teacher)


def term(**kwargs):
    torch.manual_seed(0)
    loss = UNIC(**{"layers": LAYERS} | kwargs)
    loss.build(*outputs())
    return loss


# ----------------------------------------------------------------------------------------------------------------------
# Rows and teachers


@pytest.mark.parametrize("shape", [(4, 5), (4, 3, 5)])
def test_rows_one_by_one(shape):
    s, t = 2 * normal(*shape).double(), normal(*shape, seed=1).double()
    rows = []
    for x, y in zip(s.view(4, -1, 5), t.view(4, -1, 5), strict=True):
        gap = (x - y).abs()
        smooth = torch.where(gap < 1, gap**2 / 2, gap - 0.5).mean(1)
        rows.append((0.3 * (1 - torch.cosine_similarity(x, y)) + 0.7 * smooth).mean())
    torch.testing.assert_close(unic_rows(s, t, 0.3, 0.7), torch.stack(rows))


def test_nothing_to_learn_from_oneself():
    s = normal(4, 3, 5).double().requires_grad_()
    value = unic_rows(s, s.detach())
    (gradient,) = torch.autograd.grad(value.sum(), s)
    assert (value == 0).all()
    assert gradient.abs().max() < 1e-15


def test_angles_do_not_know_lengths():
    s, t = normal(4, 5), normal(4, 5, seed=1)
    torch.testing.assert_close(unic_rows(3 * s, t, 1, 0), unic_rows(s, t, 1, 0))
    assert unic_rows(3 * s, t, 0, 1).mean() > unic_rows(s, t, 0, 1).mean()


def test_gradcheck():
    s, t = normal(4, 3, 5).double().requires_grad_(), normal(4, 3, 5, seed=1).double()
    assert gradcheck(lambda x: unic_rows(x, t), s)


@pytest.mark.parametrize("student", [torch.zeros(2, 5), torch.full((2, 5), 1e4), torch.full((2, 5), -1e4)])
def test_extreme_vectors(student):
    s = student.clone().requires_grad_()
    value = unic_rows(s, normal(2, 5)).sum()
    (gradient,) = torch.autograd.grad(value, s)
    assert value.isfinite()
    assert gradient.isfinite().all()


def test_the_worst_teacher_is_never_dropped():
    losses, draws = torch.rand(3, 1000), torch.rand(3, 1000)
    worst = F.one_hot(losses.argmax(0), 3).T.bool()
    assert torch.equal(unic_kept(losses, draws, 1.0), worst)
    assert unic_kept(losses, draws, 0.0).all()
    kept = unic_kept(losses, draws, 0.3)
    assert kept[worst].all()
    assert abs(kept[~worst].float().mean() - 0.7) < 0.05


# ----------------------------------------------------------------------------------------------------------------------
# Statistics


def test_the_first_batch_by_itself_and_the_next_by_it():
    standardise, x, y = Standardiser(5), 3 * normal(6, 4, 5) + 2, normal(6, 4, 5, seed=1)
    first = standardise(x, 0.1)
    torch.testing.assert_close(first.mean((0, 1)), torch.zeros(5), rtol=0, atol=1e-6)
    torch.testing.assert_close(first.flatten(0, 1).std(0), torch.ones(5))
    torch.testing.assert_close(standardise(y, 0.1), (y - x.mean((0, 1))) / x.flatten(0, 1).std(0))


def test_means_over_batches_and_then_a_share():
    standardise = Standardiser(2)
    batches = [normal(8, 2, seed=seed) for seed in range(6)]
    means = [x.mean(0) for x in batches]
    for x in batches[:4]:
        standardise(x, 0.25)
    torch.testing.assert_close(standardise.mean, torch.stack(means[:4]).mean(0))
    for x in batches[4:]:
        standardise(x, 0.25)
    expected = torch.stack(means[:4]).mean(0).lerp(means[4], 0.25).lerp(means[5], 0.25)
    torch.testing.assert_close(standardise.mean, expected)


def test_channels_far_from_zero_and_constant_ones():
    x = 1e3 + normal(64, 3)
    x[:, 2] = 7.0
    given = Standardiser(3)(x, 0.1)
    exact = (x.double() - x.double().mean(0)) / (x.double().std(0) + 1e-6)
    torch.testing.assert_close(given.double(), exact, rtol=0, atol=2e-4)  # a float at 1000 is known to 6e-5
    plain = (x.square().mean(0) - x.mean(0).square())[:2].clamp(min=0).sqrt()
    assert (plain / x.double().std(0)[:2] - 1).abs().max() > 0.01  # the check can fail
    assert (given[:, 2] == 0).all()


def test_only_training_moves_statistics():
    standardise = Standardiser(2)
    standardise(normal(8, 2), 0.5)
    state = standardise.get_extra_state()
    standardise.eval()(normal(8, 2, seed=1), 0.5)
    assert all(torch.equal(value, state[name]) for name, value in standardise.get_extra_state().items())


def test_statistics_of_other_channels():
    with pytest.raises(InputError, match="as many channels as in the checkpoint, 3, got 2"):
        Standardiser(2).load_state_dict(Standardiser(3).state_dict())


# ----------------------------------------------------------------------------------------------------------------------
# The term


def test_ladders_statistics_and_both_kinds_of_token():
    loss, (student, teacher) = term().eval(), outputs()
    one, two = student.features.values()
    cnn, vit = teacher.features.values()
    rows = []
    for k, (classes, patches, side) in enumerate(
        [(cnn.mean((2, 3)), cnn.flatten(2).mT, 2), (vit[:, 0], vit[:, 1:], 4)]
    ):
        resized = [F.adaptive_avg_pool2d(x, side) if x.shape[2] > side else x for x in (one, two)]
        resized = [F.interpolate(x, (side, side), mode="bilinear") if x.shape[2] < side else x for x in resized]
        of_class = sum(net(x.mean((2, 3))) for net, x in zip(loss.class_ladders[k].rungs, (one, two), strict=True))
        of_patch = sum(net(x.flatten(2).mT) for net, x in zip(loss.patch_ladders[k].rungs, resized, strict=True))
        scaled = [(x - x.flatten(0, -2).mean(0)) / (x.flatten(0, -2).std(0) + 1e-6) for x in (classes, patches)]
        rows.append((unic_rows(of_class, scaled[0]) + unic_rows(of_patch, scaled[1])) / 2)
    torch.testing.assert_close(loss(student, teacher, None), torch.stack(rows).mean())


def test_the_hidden_layers_are_those_of_the_authors():
    first, last = term().class_ladders[1].rungs
    assert [first[0].out_features, last[0].out_features] == [3, 20]  # as wide as the rung, and four times at the last
    assert [first[2].out_features, last[2].out_features] == [7, 7]
    assert (first[0].bias == 0).all()


def test_dropping_is_by_sample():
    everyone, worst, some = (term(drop=drop)(*outputs(), None) for drop in (0.0, 1.0, 0.5))
    assert worst > everyone
    assert everyone < some < worst
    torch.testing.assert_close(everyone, term().eval()(*outputs(), None))


def test_one_teacher_is_never_dropped():
    student, teacher = outputs()
    values = []
    for drop in (0.0, 1.0):
        torch.manual_seed(0)
        loss = UNIC(drop=drop, layers={"one": CNN, "two": CNN})
        loss.build(student, teacher)
        assert len(loss.class_ladders) == 1
        values.append(loss(student, teacher, None))
    assert values[0] == values[1]


def test_what_stands_beside_which_does_not_matter():
    values = []
    for layers in (LAYERS, {"one": CNN, "two": VIT, "three": CNN}, {"one": CNN, "two": VIT, "three": VIT}):
        torch.manual_seed(0)
        student, teacher = outputs()
        student = student._replace(features={**student.features, "three": normal(4, 3, 2, 2, seed=7)})
        loss = UNIC(layers=layers)
        loss.build(student, teacher)
        values.append(loss(student, teacher, None))
    assert values[1] == values[2] != values[0]


def test_every_ladder_is_trained_where_nobody_is_dropped():
    loss, (student, teacher) = term(drop=0.0), outputs()
    student = student._replace(features={path: x.requires_grad_() for path, x in student.features.items()})
    loss(student, teacher, None).backward()
    assert all(p.grad.abs().max() > 0 for p in (*loss.parameters(), *student.features.values()))


def test_learns():
    loss, said = term(drop=0.5), outputs(batch=8)
    optimizer = torch.optim.Adam(loss.parameters(), lr=3e-2)
    values = []
    for _ in range(40):
        optimizer.zero_grad()
        values.append(loss(*said, None))
        values[-1].backward()
        optimizer.step()
    assert values[-1] < 0.6 * values[0]


def test_vectors_on_either_side():
    student = Outputs(torch.zeros(4, 3), {"one": normal(4, 3), "two": normal(4, 5, 2, 2)})
    teacher = Outputs(torch.zeros(4, 3), {CNN: normal(4, 6), VIT: normal(4, 17, 7)})
    loss = UNIC(layers=LAYERS)
    loss.build(student, teacher)
    assert loss(student, teacher, None).isfinite()


def test_half_precision():
    exact = term()(*outputs(), None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = term()(*outputs(), None)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=1e-2, atol=0)


def test_resumed_equals_uninterrupted():
    def go_on(loss, steps):
        return [loss(*outputs(seed=step), None) for step in steps]

    whole = go_on(term(), range(6))
    first, second = term(), term(seed=0)
    assert go_on(first, range(3)) == whole[:3]
    second.load_state_dict(first.state_dict())
    assert go_on(second, range(3, 6)) == whole[3:]
    assert go_on(term(seed=1), range(6)) != whole


def test_layers_by_themselves():
    teacher = Ensemble({"a": resnet8(10, 1), "b": ConvNet(in_channels=1, width=8, depth=2)})
    loss = UNIC()
    loss.choose_layers(ConvNet(in_channels=1, width=8, depth=3), teacher)
    assert loss.layers == {
        "blocks.0.relu": "members.a.layer3",
        "blocks.1.relu": "members.b.blocks.1.relu",
        "blocks.2.relu": "members.a.layer3",
    }
    loss = UNIC(teacher="b")
    loss.choose_layers(ConvNet(in_channels=1, width=8, depth=2), teacher)
    assert set(loss.layers.values()) == {"members.b.blocks.1.relu"}
    loss = UNIC()
    loss.choose_layers(ConvNet(in_channels=1, width=8, depth=2), teacher.members["a"])
    assert set(loss.layers.values()) == {"layer3"}
    many = Ensemble({name: resnet8(10, 1) for name in "abc"})
    with pytest.raises(InputError, match="none, for 3 teachers and 2 stages of the student"):
        UNIC().choose_layers(ConvNet(in_channels=1, width=8, depth=2), many)


@pytest.mark.distributed
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_ranks_train_as_one(strategy, tmp_path):
    one = run(unic_jobs.train, tmp_path / "one", ranks=1)[0]
    for rank in run(unic_jobs.train, tmp_path / "two", strategy):
        torch.testing.assert_close(rank, one, rtol=0, atol=1e-4)


def test_two_teachers_of_other_widths_in_training(tmp_path):
    start = unic_jobs.module().state_dict()
    (trained,) = run(unic_jobs.train, tmp_path, ranks=1)
    ladders = {name: weight for name, weight in trained["weights"].items() if name.startswith("losses.unic.")}
    assert len(ladders) == 2 * 2 * 2 * 4  # kinds of token, teachers, rungs, and parameters of a projector
    assert [name for name, weight in ladders.items() if torch.equal(weight, start[name])] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"drop": 1.5}, r"drop must be in \[0, 1\], got 1.5"),
        ({"cosine_weight": -1.0}, "cosine_weight must be 0 or positive"),
        ({"smooth_l1_weight": -1.0}, "smooth_l1_weight must be 0 or positive"),
        ({"momentum": 2.0}, r"momentum must be in \[0, 1\]"),
    ],
)
def test_bad_hyperparameters(arguments, message):
    with pytest.raises(InputError, match=message):
        UNIC(**arguments)


def test_not_built_and_other_shapes():
    with pytest.raises(InputError, match=r"got no build\(\)"):
        UNIC(layers=LAYERS)(*outputs(), None)
    with pytest.raises(InputError, match="vectors must be of one shape"):
        unic_rows(torch.zeros(2, 3), torch.zeros(2, 4))
