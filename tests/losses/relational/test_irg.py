import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import IRG
from lit_distill.losses.relational import irg_edge_loss, irg_edges, irg_transformation
from lit_distill.models import ConvNet, resnet8

MODES = pytest.mark.parametrize("mode", ["instances", "batch"])


def maps(channels, size, seed=0, batch=4):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, size, size, generator=generator, dtype=torch.float64)


def outputs(seed=0, width=4, classes=3):
    generator = torch.Generator().manual_seed(seed + 10)
    logits = torch.randn(4, classes, generator=generator, dtype=torch.float64)
    return Outputs(logits, {"a": maps(width, 4, seed), "b": maps(2 * width, 2, seed + 1), "v": maps(7, 1, seed + 2)})


LAYERS = {"a": "a", "b": "b"}


def test_edges_one_by_one():
    x = maps(3, 2)
    distances = torch.tensor([[(x[i] - x[j]).square().sum() for j in range(4)] for i in range(4)], dtype=torch.float64)
    torch.testing.assert_close(irg_edges(x), distances / distances.max())


def test_scale_and_place_do_not_matter_to_edges():
    x = maps(3, 2)
    torch.testing.assert_close(irg_edges(3.5 * x + 11), irg_edges(x))


def test_tight_cluster_far_from_the_origin_under_autocast():
    x = 50 + 0.05 * maps(8, 2, batch=16).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        edges = irg_edges(x)
    torch.testing.assert_close(edges.double(), irg_edges(x.double()), rtol=1e-4, atol=1e-5)


def test_gradients():
    teacher = maps(3, 4, 1), maps(6, 2, 2)
    student = [x.requires_grad_() for x in (maps(2, 4, 3), maps(5, 2, 4))]
    assert gradcheck(lambda x: irg_edge_loss(x, teacher[0]), student[0])
    for mode in ("instances", "batch"):
        assert gradcheck(lambda *x, mode=mode: irg_transformation(x, teacher, mode), student)


@MODES
def test_nothing_to_learn_from_oneself(mode):
    same = outputs()
    assert IRG(layers=LAYERS, mode=mode)(same, same, torch.zeros(4)) == 0
    assert IRG(layers=LAYERS, mode=mode)(same, outputs(1, 6), torch.zeros(4)) > 1e-3


def test_neighbouring_channels_are_averaged():
    before, after, teacher = maps(3, 4), maps(6, 2, 1), (maps(2, 2, 2), maps(2, 2, 3))
    fewer = after.unflatten(1, (3, 2)).mean(2)
    smaller = F.avg_pool2d(before, 2)
    for mode in ("instances", "batch"):
        whole = irg_transformation((before, after), teacher, mode)
        if mode == "instances":
            torch.testing.assert_close(irg_transformation((smaller, fewer), teacher, mode), whole)
        assert whole > 0


def test_a_sample_that_moves_as_far_is_right_wherever_it_goes():
    before, step = maps(3, 2), maps(3, 2, 1)
    there, back = (before, before + step), (before, before - step)
    assert irg_transformation(there, back) < 1e-20
    assert irg_transformation(there, (before, before + maps(3, 2, 2))) > 1e-3


def test_weights_of_the_parts():
    s, t = outputs(), outputs(1, 6)

    def value(v, e, tr):
        return IRG(v, e, tr, layers=LAYERS)(s, t, torch.zeros(4))

    torch.testing.assert_close(value(2, 3, 4), 2 * value(1, 0, 0) + 3 * value(0, 1, 0) + 4 * value(0, 0, 1))
    torch.testing.assert_close(value(1, 0, 0), F.mse_loss(s.logits, t.logits))
    edges = [irg_edge_loss(s.features[name], t.features[name]) for name in "ab"]
    torch.testing.assert_close(value(0, 1, 0), sum(edges) / 2)


def test_vectors_have_edges_and_no_transformations():
    s, t = outputs(), outputs(1, 6)
    for said in (s, t):
        said.features["v"] = said.features["v"].flatten(1)
    whole = IRG(0.0, 1.0, 1.0, layers={**LAYERS, "v": "v"})(s, t, torch.zeros(4))
    edges = [irg_edge_loss(s.features[name], t.features[name]) for name in "abv"]
    moved = irg_transformation(*((o.features["a"], o.features["b"]) for o in (s, t)))
    torch.testing.assert_close(whole, sum(edges) / 3 + moved)


@MODES
@pytest.mark.parametrize("batch", [1, 2])
def test_collapsed_batches_stay_finite(mode, batch):
    x = torch.ones(batch, 4, 2, 2, requires_grad=True)
    student = Outputs(torch.zeros(batch, 3), {"a": x, "b": x})
    teacher = Outputs(torch.zeros(batch, 3), {"a": torch.randn(batch, 4, 2, 2), "b": torch.randn(batch, 4, 2, 2)})
    value = IRG(layers=LAYERS, mode=mode)(student, teacher, torch.zeros(batch))
    (gradient,) = torch.autograd.grad(value, x)
    assert value.isfinite()
    assert gradient.isfinite().all()


@MODES
def test_half_precision_maps_are_raised(mode):
    student, teacher = ((maps(3, 4, seed).bfloat16(), maps(6, 2, seed + 1).bfloat16()) for seed in (0, 2))
    exact = irg_transformation(*(tuple(x.double() for x in pair) for pair in (student, teacher)), mode)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        given = irg_transformation(student, teacher, mode)
    assert given.dtype == torch.float32
    torch.testing.assert_close(given.double(), exact, rtol=1e-4, atol=1e-7)


def test_large_activations_stay_finite():
    student, teacher = outputs(), outputs(1, 6)
    said = Outputs((1e4 * student.logits).bfloat16(), {k: (1e4 * x).bfloat16() for k, x in student.features.items()})
    value = IRG(layers=LAYERS)(said, teacher._replace(logits=teacher.logits.bfloat16()), torch.zeros(4))
    assert value.isfinite()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vertex_weight": -1}, "vertex_weight must be 0 or positive, got -1"),
        ({"edge_weight": -1}, "edge_weight must be 0 or positive, got -1"),
        ({"transform_weight": -1}, "transform_weight must be 0 or positive, got -1"),
        ({"mode": "code"}, "mode must be instances or batch, got 'code'"),
    ],
)
def test_bad_hyperparameters(arguments, message):
    with pytest.raises(InputError, match=message):
        IRG(layers=LAYERS, **arguments)


def test_shapes_that_do_not_fit():
    s = outputs()
    with pytest.raises(
        InputError, match=r"two pairs of maps or tokens at least for IRG with transform_weight 5\.0, got 1"
    ):
        IRG(layers={"a": "a"})(s, s, torch.zeros(4))
    with pytest.raises(InputError, match="logits must be of one shape"):
        IRG(layers=LAYERS)(s, outputs(classes=4), torch.zeros(4))
    with pytest.raises(InputError, match="of the same samples, got 4 and 3 samples"):
        irg_edge_loss(torch.zeros(4, 2), torch.zeros(3, 2))


def test_default_layers_are_stages_and_pooled_vectors():
    loss = IRG()
    loss.choose_layers(ConvNet(depth=2), resnet8())
    assert loss.layers == {"blocks.0.relu": "layer2", "blocks.1.relu": "layer3", "flatten": "flatten"}
